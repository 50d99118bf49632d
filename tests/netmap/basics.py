"""The guest itself: packet sockets forward there, and the module does what the others build on."""

from __future__ import annotations

import time

from tests.netmap.report import Check
from tests.netmap.rings import NIC_SW, Client, vale_list
from tests.netmap.world import World, numbered
from tests.support.wire import HostPort, in_netns


def packet_sockets(world: World) -> str:
    ifs = world.net.switch_ifs
    backends = {f"p{i}": {"type": "af_packet", "ifname": ifs[i]} for i in range(2)}
    with world.bridge("base", **backends):
        answered = world.ping(0, 1, 5)
        world.switch.check_ledger()
    return f"{answered} of 5 answers"


def module(world: World) -> str:
    """Python programs only: a VALE switch, a pipe, an interface."""
    frames = [numbered(i, 60 + i) for i in range(200)]
    return in_netns(world.net.switch, lambda: _module(world, frames))


def _module(world: World, frames: list[bytes]) -> str:
    with Client("vale9:a") as one, Client("vale9:b") as two:
        assert sorted(vale_list("vale9")) == ["vale9:a", "vale9:b"], vale_list("vale9")
        one.send(frames)
        assert [bytes(f) for f, _ in two.receive(len(frames))] == frames
    with Client("vale9:a{x") as one, Client("vale9:a}x") as two:
        one.send(frames)
        assert [bytes(f) for f, _ in two.receive(len(frames))] == frames
        assert one.registered.mem_id == two.registered.mem_id
    wire = HostPort(world.net.hosts[0], world.net.host_ifs[0])
    with Client(world.net.switch_ifs[0], NIC_SW) as nic:
        time.sleep(0.5)  # the link goes down and up
        nic.receive(0)
        for one_frame in frames:
            wire.send(one_frame)
        assert [bytes(f) for f, _ in nic.receive(len(frames))] == frames
        said = nic.registered
    wire.close()
    return f"VALE, pipe, {world.net.switch_ifs[0]}: {said}"


CHECKS = (
    Check("base", "two packet socket ports and a ping", packet_sockets),
    Check("module", "the kernel module with programs of netmap's own kind", module),
)
