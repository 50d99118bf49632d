"""N9: VALE switches of the kernel, made, filled, listed and left over REST."""

from __future__ import annotations

import time
from typing import Any

from tests.netmap.report import Check
from tests.netmap.rings import Client, vale_list
from tests.netmap.world import World, carry, numbered
from tests.support.appliance import ApiError
from tests.support.topology import wait_until

SWITCH = "vale0"


def _listed(world: World) -> list[str]:
    """What the API says, once it agrees with the module."""

    def ours() -> list[str]:
        ports = world.switch.call("GET", f"/bridges/{SWITCH}")["status"]["ports"]
        return sorted(f"{SWITCH}:{port}" for port in ports)

    def agree() -> bool:
        return ours() == sorted(world.here(lambda: vale_list(SWITCH)))

    wait_until(agree, 20, "the API lists what the module lists")
    return ours()


def _promiscuous(world: World, host: int) -> bool:
    said = world.net.run(world.net.switch, "ip", "-d", "link", "show", world.net.switch_ifs[host])
    return "promiscuity 0 " not in said


def attach(world: World) -> str:
    """Two interfaces in a kernel switch, the second one comes and goes."""
    world.switch.put_bridge(SWITCH, engine="vale")
    try:
        for host in (0, 1):
            world.switch.put_port(f"p{host}", SWITCH, world.portspec(host))
        world.switch.wait_ready("p0", "p1", timeout_s=60)
        both = _listed(world)
        assert len(both) == 2, both
        assert _promiscuous(world, 0)
        assert _promiscuous(world, 1)
        answers = world.ping(0, 1, 5)
        assert answers >= 4, f"{answers} of 5 answers"  # the link may still be coming up
        frames = [numbered(i, 60 + i % 1400) for i in range(500)]
        with world.wire(0, 1) as (one, two):
            carry(one.send_all, two.receive, frames)
        world.switch.call("DELETE", "/ports/p1")
        left = _listed(world)
        assert len(left) == 1, left
        assert not _promiscuous(world, 1)
        return f"{both}, then {left}; {answers} of 5 answers, {len(frames)} frames unchanged"
    finally:
        for host in (0, 1):
            try:
                world.switch.call("DELETE", f"/ports/p{host}")
            except ApiError:
                continue
        world.switch.call("DELETE", f"/bridges/{SWITCH}")


def with_host(world: World) -> str:
    """`netmap:IF*` brings the host's stack behind the interface into the switch, too."""
    address, device = "10.99.0.101/24", world.net.switch_ifs[0]
    world.net.run(world.net.switch, "ip", "addr", "add", address, "dev", device)
    world.switch.put_bridge(SWITCH, engine="vale")
    try:
        world.switch.put_port("p0", SWITCH, world.portspec(0, "*"))
        world.switch.wait_ready("p0", timeout_s=60)
        listed = _listed(world)
        assert len(listed) == 2, f"{listed}: the interface and its host"
        answers = world.ping_address(0, "10.99.0.101", 5)
        assert answers >= 4, f"{answers} of 5 answers"
        return f"{listed}, {answers} of 5 answers from the stack"
    finally:
        world.switch.call("DELETE", "/ports/p0")
        world.switch.call("DELETE", f"/bridges/{SWITCH}")
        world.net.run(world.net.switch, "ip", "addr", "del", address, "dev", device)


def learning(world: World) -> str:
    """Three programs and an interface: flooded until learned, and never forgotten."""

    def scene() -> None:
        with (
            Client(f"{SWITCH}:v0") as v0,
            Client(f"{SWITCH}:v1") as v1,
            Client(f"{SWITCH}:v2") as v2,
        ):
            assert len(_listed(world)) == 4
            v2.send([numbered(1, source=7, to=9)])
            for other in (v0, v1):
                assert _own(other.receive(1)), "flooded"
            time.sleep(5)  # nothing ages
            v0.send([numbered(2, source=8, to=7)])
            assert _own(v2.receive(1)), "the station is where it sent from"
            time.sleep(0.2)
            assert not _own(v1.receive(0)), "learned: not flooded"
            assert world.here(lambda: sorted(vale_list(SWITCH)))

    world.switch.put_bridge(SWITCH, engine="vale")
    try:
        world.switch.put_port("p0", SWITCH, world.portspec(0))
        world.switch.wait_ready("p0", timeout_s=60)
        world.here(scene)
        left = _listed(world)
        assert len(left) == 1, left
        return "flooded, learned, not forgotten; programs are listed while they are there"
    finally:
        world.switch.call("DELETE", "/ports/p0")
        world.switch.call("DELETE", f"/bridges/{SWITCH}")


def joined(world: World) -> str:
    """A `vale` port in a bridge joins it with the kernel's switch, which comes and goes with it."""
    frames = [numbered(i, 60 + i % 1400) for i in range(500)]
    backends = {
        "p0": world.portspec(0),
        "v0": {"type": "vale", "switch": "vale3", "port": "p1"},
    }
    with world.wire(0) as (one,), world.bridge("br0", **backends):
        made = world.switch.call("GET", "/bridges/vale3")
        assert (made["spec"]["engine"], made["spec"]["origin"]) == ("vale", "vale"), made["spec"]

        def far() -> None:
            with Client("vale3:x") as client:
                carry(one.send_all, lambda: [f for f, _ in client.receive(0)], frames)
                back = [numbered(i, 60 + i, source=2, to=1) for i in range(500)]
                carry(client.send, one.receive, back)

        world.here(far)
        wait_until(
            lambda: world.switch.call("GET", "/bridges/vale3")["status"]["ports"] == ["p1"],
            20,
            "the switch has the port",
        )
        effective = world.status("v0")["backend_effective"]
        world.switch.check_ledger()
    left = [item["name"] for item in world.switch.call("GET", "/bridges")["items"]]
    assert "vale3" not in left, left
    return f"{len(frames)} frames there and back unchanged; {effective}"


def kills(world: World) -> str:
    """The attachment is the kernel's: no process that dies ends it, and a new start takes it on."""
    world.switch.put_bridge(SWITCH, engine="vale")
    try:
        for host in (0, 1):
            world.switch.put_port(f"p{host}", SWITCH, world.portspec(host))
        world.switch.wait_ready("p0", "p1", timeout_s=60)
        for name in ("forwarder", "keeper"):
            world.switch.wait_replaced(name, world.switch.kill(name), 60)
            answers = world.ping(0, 1, 5)
            assert answers == 5, f"{answers} of 5 answers after the {name} died"
        # all at once, so that nobody detaches
        for name in ("serve", "keeper", "forwarder", "control"):
            world.switch.kill(name)
        answers = world.ping(0, 1, 5)
        assert answers == 5, f"{answers} of 5 answers without any process"
        world.switch.stop()
        world.switch.start()
        world.switch.wait_ready("p0", "p1", timeout_s=60)
        answers = world.ping(0, 1, 5)
        assert answers == 5, f"{answers} of 5 answers after the next start"
        listed = _listed(world)
        assert len(listed) == 2, listed
        return f"5 of 5 answers after each; {listed}"
    finally:
        for host in (0, 1):
            world.switch.call("DELETE", f"/ports/p{host}")
        world.switch.call("DELETE", f"/bridges/{SWITCH}")


def _own(frames: list[tuple[bytes, int]]) -> list[bytes]:
    return [frame for frame, _ in frames if frame[12:14] == b"\x88\xb5"]


def refusals(world: World) -> str:
    """What a VALE switch lacks, and an interface that somebody else has."""

    def refused(path: str, spec: dict[str, Any]) -> None:
        try:
            world.switch.call("PUT", path, {"spec": spec})
        except ApiError as error:
            said = str(error)
        else:
            raise AssertionError(f"{path} {spec} was accepted")
        assert ": 422 " in said, said

    refused(f"/bridges/{SWITCH}", {"engine": "vale", "vlan_filtering": True})
    refused(f"/bridges/{SWITCH}", {"engine": "vale", "fdb": {"ageing_s": 300}})
    refused("/bridges/br0", {"engine": "vale"})
    world.switch.put_bridge(SWITCH, engine="vale")
    device = world.net.switch_ifs[2]
    try:
        refused("/ports/p0", {"bridge": SWITCH, "backend": {"type": "af_packet", "ifname": device}})
        refused("/ports/p0", {"bridge": SWITCH, "learning": False, "backend": world.portspec(2)})
        with world.here(lambda: Client(device)):
            world.switch.put_port("p0", SWITCH, world.portspec(2))
            wait_until(
                lambda: world.conditions("p0")["Ready"]["reason"] == "PORT_BUSY", 20, "it is busy"
            )
        world.switch.wait_ready("p0", timeout_s=30)
        world.switch.call("DELETE", "/ports/p0")
        return "422 for what it lacks; PORT_BUSY, and in force by itself once the interface is free"
    finally:
        world.switch.call("DELETE", f"/bridges/{SWITCH}")


CHECKS = (
    Check("N9a", "interfaces in a VALE switch: attach, list, forward, detach", attach),
    Check("N9b", "an interface with its host in a VALE switch", with_host),
    Check("N9c", "a VALE switch learns and does not forget", learning),
    Check("N9e", "a bridge and a VALE switch joined by a vale port", joined),
    Check("N9f", "interfaces stay in a VALE switch whoever dies", kills),
    Check("N9d", "what a VALE switch cannot do is refused", refusals),
)
