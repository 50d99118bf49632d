"""N1 to N8, N12: ports on interfaces, their rings, their host's stack, their memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from tests.netmap.report import Check
from tests.netmap.rings import NIC_SW, Client
from tests.netmap.world import World, carry, netmap, numbered
from tests.support.appliance import ApiError
from tests.support.topology import wait_until

RINGS = 4  # of the interface that queues() makes


@contextlib.contextmanager
def queues(world: World) -> Iterator[str]:
    """A pair with several queues in the switch's namespace: the name of one end."""
    name, net = "nmq0", world.net
    count = ("numtxqueues", str(RINGS), "numrxqueues", str(RINGS))
    net.run(
        net.switch,
        *("ip", "link", "add", name, *count, "type", "veth"),
        *("peer", "name", "nmq1", *count),
    )
    try:
        for end in (name, "nmq1"):
            net.run(net.switch, "ip", "link", "set", end, "up")
        yield name
    finally:
        net.run(net.switch, "ip", "link", "del", name)


@contextlib.contextmanager
def alone(world: World, name: str, backend: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A port in no bridge, Ready: its status."""
    world.switch.call("PUT", f"/ports/{name}", {"spec": {"backend": backend}})
    try:
        world.switch.wait_ready(name, timeout_s=60)
        yield world.status(name)
    finally:
        world.switch.call("DELETE", f"/ports/{name}")


def names(world: World) -> str:
    """Every form of a portspec opens what it says: the adapter's rings, in pairs."""
    said = []
    with queues(world) as ifname:
        wanted = {
            f"netmap:{ifname}": RINGS,
            f"netmap:{ifname}-0": 1,
            f"netmap:{ifname}-{RINGS - 1}": 1,
            f"netmap:{ifname}^": 1,
            f"netmap:{ifname}^0": 1,
            f"netmap:{ifname}{{p1": 1,
            f"netmap:{ifname}}}p1": 1,
            f"netmap:{ifname}/x": RINGS,
            f"netmap:{ifname}@1": RINGS,
            "vale7:p1": 1,
            "vale7:p1@conf:rings=2": 2,
            "vale7:p1{x": 1,
        }
        for spec, rings in wanted.items():
            with alone(world, "n1", netmap(spec)) as status:
                found = (status["rx_queues"], status["tx_queues"])
                assert found == (rings, rings), f"{spec}: {found} rings, {status}"
                said.append(spec)
        with alone(world, "n1", netmap(f"netmap:{ifname}*")) as status:
            # what is sent to the host's stack goes through the port, not through a queue
            found = (status["rx_queues"], status["tx_queues"])
            assert found == (RINGS + 1, RINGS), f"{found} rings, {status}"
        for spec, code in (
            ("netmap:nosuch0", "IFACE_NOT_FOUND"),
            (f"netmap:{ifname}-{RINGS}", "EINVAL"),
            (f"netmap:{ifname}^1", "EINVAL"),
        ):
            _not_ready(world, spec, code)
        for spec in ("netmap:", "netmap:a-", "netmap:a@1@2", "vale:", "eth0", "netmap:a/q"):
            _refused(world, spec)
    return f"{len(said)} opened as said: {', '.join(said)}"


def _not_ready(world: World, spec: str, code: str) -> None:
    world.switch.call("PUT", "/ports/n1", {"spec": {"backend": netmap(spec)}})
    try:
        wait_until(
            lambda: world.conditions("n1")["Ready"]["reason"] == code,
            30,
            f"{spec}: {code} instead of {world.conditions('n1')['Ready']}",
        )
    finally:
        world.switch.call("DELETE", "/ports/n1")


def _refused(world: World, spec: str) -> None:
    try:
        world.switch.call("PUT", "/ports/n1", {"spec": {"backend": netmap(spec)}})
    except ApiError as error:
        said = str(error)
    else:
        raise AssertionError(f"{spec} was accepted")
    assert ": 422 " in said, said
    assert "/spec/backend" in said, said


def same_bytes(world: World) -> str:
    """Frames of all lengths, both ways, through a netmap port and a packet socket."""
    backends = {
        "p0": world.portspec(0),
        "p1": {"type": "af_packet", "ifname": world.net.switch_ifs[1]},
    }
    frames = [numbered(i, 60 + i * 7 % 1455) for i in range(400)]
    back = [numbered(i, 60 + i * 11 % 1455, source=2, to=1) for i in range(400)]
    with world.bridge("br0", **backends), world.wire(0, 1) as (one, two):
        world.switch.wait_ports("p0", "p1", timeout_s=60)
        carry(one.send_all, two.receive, frames)
        carry(two.send_all, one.receive, back)
        ledger = world.switch.check_ledger()
    return f"{len(frames)} + {len(back)} frames of 60 to 1514 bytes, {ledger['drops']} drops"


def host_rings(world: World) -> str:
    """NIC and host as one port: the stack behind the interface is reached. Host alone: idle."""
    device, address = world.net.switch_ifs[0], "10.99.0.100"
    world.net.run(world.net.switch, "ip", "addr", "add", f"{address}/24", "dev", device)
    try:
        with world.bridge("br0", p0=world.portspec(0, "*")):
            world.switch.wait_ports("p0", timeout_s=60)
            world.net.run(world.net.switch, *f"ethtool -K {device} tx off tso off gso off".split())
            answers = world.ping_address(0, address, 10)
            assert answers == 10, f"{answers} of 10 answers from the stack"
            ledger = world.switch.check_ledger()
        with world.bridge("br0", p0=world.portspec(0, "^")):
            wait_until(
                lambda: world.conditions("p0").get("HostRingsIdle", {}).get("status") == "True",
                20,
                f"HostRingsIdle is said, not {sorted(world.conditions('p0'))}",
            )
            words = world.conditions("p0")["HostRingsIdle"]
    finally:
        world.net.run(world.net.switch, "ip", "addr", "del", f"{address}/24", "dev", device)
    return f"{answers} of 10 answers, {ledger['rx_frames']} frames; ^ alone: {words['message']}"


def zero_copy(world: World) -> str:
    """NIC to NIC of one region: buffers change hands. Between regions: copied."""
    frames = [numbered(i, 60 + i % 1400) for i in range(2000)]
    with world.wire(0, 1) as (one, two):
        with world.bridge("br0", p0=world.portspec(0), p1=world.portspec(1)):
            world.switch.wait_ports("p0", "p1", timeout_s=60)
            _settle(world, one, two)
            before = _sent(world)
            carry(one.send_all, two.receive, frames)
            world.switch.check_ledger()
            sent, exchanged = (now - then for now, then in zip(_sent(world), before, strict=True))
        assert exchanged == sent >= len(frames), (exchanged, sent)
        with world.bridge("br0", p0=world.portspec(0), p1=netmap("vale6:p1")):
            world.switch.wait_ready("p0", "p1", timeout_s=60)
            copied = _to_vale(world, one, frames)
    return f"NIC to NIC {exchanged} of {sent} exchanged; NIC to VALE 0 of {copied}"


def _sent(world: World) -> tuple[int, int]:
    """Frames that p1 sent, and those of them whose buffers were exchanged."""
    stats = world.switch.port_stats()["p1"]
    return stats["tx_frames"], stats["zero_copy_frames"]


def _to_vale(world: World, one: Any, frames: list[bytes]) -> int:
    def run() -> None:
        with Client("vale6:far") as far:

            def receive() -> list[bytes]:
                return [frame for frame, _ in far.receive(0)]

            carry(one.send_all, receive, frames)

    world.here(run)
    sent, exchanged = _sent(world)
    assert sent >= len(frames), sent
    assert exchanged == 0, exchanged
    return sent


def _settle(world: World, one: Any, two: Any) -> None:
    """Both stations are known, so that nothing is flooded."""
    for source, to, near, far in ((1, 2, one, two), (2, 1, two, one)):
        carry(near.send_all, far.receive, [numbered(0, source=source, to=to)])


def one_region(world: World) -> str:
    """All hardware ports are in the module's one region; a program that opens one is too."""
    with world.bridge("br0", p0=world.portspec(0), p1=world.portspec(1)):
        regions = [world.status(port)["mem_region"] for port in ("p0", "p1")]

        def theirs() -> int:
            with Client(world.net.switch_ifs[2], NIC_SW) as client:
                return client.registered.mem_id

        regions.append(world.here(theirs))
    assert len(set(regions)) == 1, regions
    with alone(world, "v0", netmap("vale6:p1")) as status:
        assert status["mem_region"] not in (None, 0, regions[0]), status
        return f"regions {regions}, VALE {status['mem_region']}"


def promiscuous(world: World) -> str:
    """Interfaces are promiscuous while they are ports, and not afterwards."""

    def said() -> list[str]:
        texts = [
            world.net.run(world.net.switch, "ip", "-d", "link", "show", world.net.switch_ifs[i])
            for i in (0, 1)
        ]
        return [text.partition("promiscuity ")[2].split()[0] for text in texts]

    before = said()
    with world.bridge("br0", p0=world.portspec(0), p1=world.portspec(1)):
        world.switch.wait_ports("p0", "p1", timeout_s=60)
        during = said()
        answers = world.ping(0, 1, 10)
    after = said()
    assert before == after == ["0", "0"], (before, after)
    assert "0" not in during, during
    assert answers == 10, f"{answers} of 10 answers"
    return f"promiscuity {before}, {during}, {after}; {answers} of 10 answers"


def several_rings(world: World) -> str:
    """A worker a ring pair; the host's ring has one of its own, and the status names it."""
    with queues(world) as ifname:
        with alone(world, "n8", netmap(f"netmap:{ifname}*")) as status:
            queue_stats = world.switch.port_stats()["n8"]["queues"]
            threads = {queue["thread"] for queue in queue_stats}
            assert len(queue_stats) >= RINGS + 1, queue_stats
            assert len(threads) == len(queue_stats), threads
            words = status["backend_effective"]
            assert "host" in words, words
        ports = {f"q{ring}": netmap(f"netmap:{ifname}-{ring}") for ring in range(RINGS)}
        with world.bridge("br0", **ports):
            rings = [world.status(name)["rx_queues"] for name in ports]
            assert rings == [1] * RINGS, rings
    return f"{len(threads)} workers; {words}; {RINGS} ports of one ring pair each"


def tips(world: World) -> str:
    """Offloads that netmap cannot carry are named with the command that mends them."""
    device = world.net.switch_ifs[0]
    on = "tx on sg on tso on gso on gro on"
    off = "tx off tso off gso off gro off"
    world.net.run(world.net.switch, "ethtool", "-K", device, *on.split())
    with alone(world, "t0", world.portspec(0, "*")):

        def findings() -> list[dict[str, Any]]:
            found = world.switch.call("GET", "/system/preflight")["findings"]
            return [item for item in found if item["object"] == "ports/t0" and item["fix"]]

        wait_until(lambda: bool(findings()), 20, "the preflight names offloads")
        fixes = [item["fix"] for item in findings()]
        assert any(f"ethtool -K {device}" in fix for fix in fixes), fixes
        for fix in fixes:
            world.net.run(world.net.switch, "sh", "-c", fix)
        wait_until(lambda: not findings(), 20, "the commands mended it")
    world.net.run(world.net.switch, "ethtool", "-K", device, *off.split())
    return "; ".join(fixes)


CHECKS = (
    Check("N1", "portspecs open the rings they name", names),
    Check("N2", "frames pass a netmap port byte for byte", same_bytes),
    Check("N3", "host rings: netmap:IF* is pinged, ^ alone says that it is idle", host_rings),
    Check("N4", "zero copy inside a region, a copy between two", zero_copy),
    Check("N5", "one memory region", one_region),
    Check("N6", "NIC to NIC is promiscuous as long as it lasts", promiscuous),
    Check("N8", "a worker a ring pair", several_rings),
    Check("N12", "offloads are named and mended", tips),
)
