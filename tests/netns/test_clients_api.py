"""netmap programs on a whole appliance: what REST says of them, decides about them and takes away.

The programs are the tests' own (tests/programs), with the library in front of the C library.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.appliance import ApiError, Appliance
from tests.support.netmap_programs import NetmapProgram, NetmapPrograms
from tests.support.probes import tool
from tests.support.topology import Topology, wait_until
from vswitch.programs import library

pytestmark = pytest.mark.root

SENDER, RECEIVER = "02:00:00:00:00:01", "02:00:00:00:00:02"


@pytest.fixture(scope="module")
def net() -> Iterator[Topology]:
    with Topology(hosts=1) as made:
        yield made


@pytest.fixture(scope="module")
def appliance(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch) as started:
        yield started


@pytest.fixture
def programs(appliance: Appliance) -> Iterator[NetmapPrograms]:
    with NetmapPrograms(appliance.home / "run") as running:
        yield running
    wait_until(lambda: not appliance.call("GET", "/clients")["items"], 10, "all have ended")
    appliance.clear()


def clients(appliance: Appliance) -> dict[str, dict[str, Any]]:
    return {item["name"]: item for item in appliance.call("GET", "/clients")["items"]}


def gone(appliance: Appliance, *names: str) -> None:
    """The last close takes the port along, and with the last port the switch."""
    wait_until(lambda: not clients(appliance).keys() & set(names), 5, "nobody has them open")
    wait_until(lambda: not appliance.port_stats().keys() & set(names), 5, "the ports are gone")


def test_ports_that_nobody_declared(appliance: Appliance, programs: NetmapPrograms) -> None:
    receiver = programs.start("receive", "vale0:b", frames=1000)
    found = clients(appliance)["vale0:b"]
    assert (found["bridge"], found["port"], found["mode"]) == ("vale0", "vale0:b", "relay")
    assert (found["pid"], found["uid"]) == (receiver.process.pid, 0)
    assert found["program"].startswith("nmtest")
    sent = programs.start("send", "vale0:a", frames=1000, pause_us=200).result()
    counted = receiver.result()
    assert (sent["sent"], counted["frames"], counted["bad"]) == (1000, 1000, 0)
    gone(appliance, "vale0:a", "vale0:b")
    appliance.check_ledger()
    assert appliance.call("GET", "/bridges")["items"] == []


def declare(appliance: Appliance, name: str, port: str, **spec: Any) -> None:
    backend = {"type": "vale", "switch": "vale0", "port": port}
    appliance.call("PUT", f"/ports/{name}", {"spec": {"backend": backend, **spec}})
    appliance.wait_ready(name)


def users(appliance: Appliance, port: str) -> list[int]:
    """Process ids, as of a second ago at most."""
    status = appliance.call("GET", f"/ports/{port}")["status"]
    return [item["pid"] for item in status["clients"]]


def test_rules_and_counters_of_a_declared_port(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    declare(appliance, "gen", "a")
    assert appliance.conditions("gen")["LinkUp"]["status"] == "False"
    rule = {
        "id": "not-there",
        "match": {"eth": {"dst": "02:00:00:00:00:03"}},
        "action": {"type": "drop"},
    }
    appliance.put_rules("fw", [rule], attach=[{"port": "gen", "direction": "ingress"}])
    receiver = programs.start("receive", "vale0:b", frames=500)
    programs.start("send", "vale0:a", frames=300, pause_us=200, to=3).result()
    sender = programs.start("send", "vale0:a", frames=500, pause_us=200, linger_ms=20_000)
    wait_until(lambda: users(appliance, "gen") == [sender.process.pid], 5, "its port says so")
    assert appliance.conditions("gen")["LinkUp"]["status"] == "True"
    counted = receiver.result()
    assert (counted["frames"], counted["bad"]) == (500, 0)
    sender.kill()
    assert appliance.hits("fw") == {"not-there": 300}
    stats = appliance.port_stats()["gen"]
    assert (stats["rx_frames"], stats["rx_drops"].get("rule")) == (800, 300)
    appliance.check_ledger()
    # The port stays, and has forgotten nothing.
    wait_until(
        lambda: appliance.conditions("gen")["LinkUp"]["status"] == "False", 5, "nobody has it"
    )
    assert appliance.port_stats()["gen"]["rx_frames"] == 800


def test_a_program_does_not_get_what_came_before_it(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    declare(appliance, "late", "b")
    programs.start("send", "vale0:a", frames=300, pause_us=200).result()
    wait_until(lambda: appliance.port_stats()["late"]["tx_frames"] == 300, 5, "flooded")
    receiver = programs.start("receive", "vale0:b", frames=50, idle=20_000)
    programs.start("send", "vale0:a", frames=20, pause_us=200).result()
    wait_until(lambda: appliance.port_stats()["late"]["tx_frames"] == 320, 5, "those, too")
    assert receiver.process.poll() is None, "20 of 50, and none of the 300"
    programs.start("send", "vale0:a", frames=30, pause_us=200).result()
    assert receiver.result()["frames"] == 50


def test_a_trace_begins_at_a_programs_port(appliance: Appliance, programs: NetmapPrograms) -> None:
    programs.start("receive", "vale0:b", frames=1, idle=20_000)
    programs.start("pong", "vale0:a", idle=20_000)
    frame = RECEIVER.replace(":", "") + SENDER.replace(":", "") + "88b5" + "00" * 46
    told = appliance.call("POST", "/traces", {"in_port": "vale0:a", "frame_hex": frame})
    assert (told["verdict"], told["out_ports"]) == ("forward", ["vale0:b"])
    with pytest.raises(ApiError, match="REFERENCE_NOT_FOUND"):
        appliance.call("POST", "/traces", {"in_port": "vale0:c", "frame_hex": frame})


def test_who_is_evicted_has_no_port_any_more(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    receiver = programs.start("receive", "vale0:b", frames=1, idle=20_000)
    number = clients(appliance)["vale0:b"]["id"]
    assert appliance.call("GET", f"/clients/{number}")["pid"] == receiver.process.pid
    appliance.call("DELETE", f"/clients/{number}")
    gone(appliance, "vale0:b")
    with pytest.raises(RuntimeError):
        receiver.result(5)
    with pytest.raises(ApiError, match="404"):
        appliance.call("DELETE", f"/clients/{number}")
    again = programs.start("receive", "vale0:b", frames=100)
    programs.start("send", "vale0:a", frames=100, pause_us=200)
    assert again.result()["frames"] == 100


def test_a_programs_frames_reach_a_namespace(
    net: Topology, appliance: Appliance, programs: NetmapPrograms
) -> None:
    """A bridge with a veth, joined with a switch; the program's frames arrive there, counted."""
    appliance.bridge("br0", net.switch_ifs[0])
    joint = {"type": "vale", "switch": "vale0", "port": "out"}
    appliance.put_port("j", "br0", joint)
    appliance.wait_ports("j")
    before = received(net)
    programs.start("send", "vale0:a", frames=1000, pause_us=200).result()
    wait_until(lambda: received(net) >= before + 1000, 5, "all have arrived")
    stats = appliance.port_stats()
    assert stats["vale0:out"]["tx_frames"] == stats["j"]["rx_frames"] >= 1000
    appliance.check_ledger()


def received(net: Topology) -> int:
    """Frames that the first host's interface has received."""
    path = f"/sys/class/net/{net.host_ifs[0]}/statistics/rx_packets"
    return int(net.run(net.hosts[0], "cat", path))


class SomebodyElse:
    """Sends as another user, from copies that this user can read."""

    def __init__(self, appliance: Appliance, uid: int, gid: int) -> None:
        here = appliance.home
        self._program = shutil.copy(tool("nmtest", "programs"), here / "nmtest")
        self._environment = {
            **os.environ,
            "LD_PRELOAD": str(shutil.copy(library(), here)),
            "VSWITCH_RUN_DIR": str(here / "run"),
        }
        self._ids = ("--reuid", str(uid), "--regid", str(gid), "--clear-groups")

    def send(self, port: str, frames: int) -> dict[str, Any]:
        words = ["setpriv", *self._ids, str(self._program), "send", port, "--frames", str(frames)]
        return NetmapProgram(words, self._environment, says_ready=True).result()


def test_whom_a_switch_lets_in(appliance: Appliance, programs: NetmapPrograms) -> None:
    """By the user of the process, or its group; root always."""
    user, group = 54321, 54322
    somebody = SomebodyElse(appliance, user, group)
    with pytest.raises(RuntimeError, match="vale0:a"):
        somebody.send("vale0:a", 1)
    for allowed in ({"uids": [user]}, {"gids": [group]}):
        appliance.put_bridge("vale0", clients=allowed)
        receiver = programs.start("receive", "vale0:b", frames=10)
        somebody.send("vale0:a", 10)
        assert receiver.result()["frames"] == 10
        with pytest.raises(RuntimeError, match="vale1:a"):
            somebody.send("vale1:a", 1)


def test_programs_that_trust_each_other(appliance: Appliance, programs: NetmapPrograms) -> None:
    """In direct mode frames pass the forwarder by once both stations are known; the books have
    them all the same."""
    appliance.put_bridge("vale0", clients={"mode": "direct"})
    programs.start("pong", "vale0:b", idle=10_000)
    pinger = programs.start("ping", "vale0:a", frames=500)
    assert {item["mode"] for item in clients(appliance).values()} == {"direct"}
    assert pinger.result()["answered"] == 500
    gone(appliance, "vale0:a")
    stats = appliance.port_stats()["vale0:b"]
    assert (stats["rx_frames"], stats["tx_frames"]) == (500, 500)
    appliance.check_ledger()
