"""Pipes and direct mode between programs on a whole appliance: nothing is lost of a pipe, members
of a group and forwarders are killed, members write nonsense, rules come and go.

The programs are the tests' own (tests/programs), with the library in front of the C library.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator

import pytest

from fastpath import native_clients as wire
from tests.support.appliance import Appliance
from tests.support.netmap_program import Memory, Program
from tests.support.netmap_programs import NetmapProgram, NetmapPrograms
from tests.support.topology import Topology, wait_until

pytestmark = pytest.mark.root

IDLE_MS = 20_000
KILLS = 12
PINGS = 50_000  # half a second where nothing else runs
ANYTHING = 4096  # bytes that a hostile member writes at a time


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


def gone(appliance: Appliance) -> None:
    wait_until(lambda: not appliance.call("GET", "/clients")["items"], 5, "all have ended")
    wait_until(lambda: not appliance.port_stats(), 5, "their ports are gone")


def fds(appliance: Appliance, *processes: str) -> int:
    return sum(len(os.listdir(f"/proc/{appliance.pid(name)}/fd")) for name in processes)


# --- pipes --------------------------------------------------------------------------------------


def test_a_million_frames_through_a_pipe(appliance: Appliance, programs: NetmapPrograms) -> None:
    """The sender is faster than the receiver, and waits."""
    before = fds(appliance, "keeper", "forwarder")
    receiver = programs.start("receive", "vale0:p}1", frames=1_000_000, idle=IDLE_MS)
    sender = programs.start("send", "vale0:p{1", frames=1_000_000, burst=500)
    counted = receiver.result(60)
    assert (counted["frames"], counted["bad"], counted["order"]) == (1_000_000, 0, 0)
    assert sender.result()["sent"] == 1_000_000
    gone(appliance)
    wait_until(lambda: fds(appliance, "keeper", "forwarder") == before, 5, "nothing is left open")


def test_the_end_that_comes_later_finds_what_was_sent(programs: NetmapPrograms) -> None:
    sender = programs.start("send", "vale0:p{1", frames=900, linger_ms=20_000)
    time.sleep(0.5)
    receiver = programs.start("receive", "vale0:p}1", frames=900, idle=5000)
    counted = receiver.result()
    assert (counted["frames"], counted["bad"], counted["order"]) == (900, 0, 0)
    sender.kill()


def test_pipes_outlive_forwarders(appliance: Appliance, programs: NetmapPrograms) -> None:
    receiver = programs.start("receive", "vale0:p}1", frames=20_000, idle=IDLE_MS)
    sender = programs.start("send", "vale0:p{1", frames=20_000, burst=10, pause_us=500)
    for _ in range(3):
        appliance.wait_replaced("forwarder", appliance.kill("forwarder"))
        wait_until(appliance.ready, 20, "the next one forwards")
    counted = receiver.result()
    assert (counted["frames"], counted["bad"], counted["order"]) == (20_000, 0, 0)
    sender.result()
    wait_until(lambda: not appliance.call("GET", "/clients")["items"], 5, "all have ended")


# --- direct mode --------------------------------------------------------------------------------


def couple(
    appliance: Appliance, programs: NetmapPrograms, pings: int
) -> tuple[NetmapProgram, NetmapProgram]:
    """A program that answers, and one that asks so many times."""
    appliance.put_bridge("vale0", clients={"mode": "direct"}, fdb={"ageing_s": 0})
    answerer = programs.start("pong", "vale0:b", idle=IDLE_MS)
    return programs.start("ping", "vale0:a", frames=pings), answerer


def answers(appliance: Appliance) -> int:
    frames: int = appliance.port_stats()["vale0:a"]["tx_frames"]
    return frames


def test_forwarders_are_killed_and_nobody_notices(
    appliance: Appliance, programs: NetmapPrograms
) -> None:
    pinger, _ = couple(appliance, programs, 40_000)
    wait_until(lambda: answers(appliance) > 100, 10, "they know each other")
    for _ in range(3):
        appliance.wait_replaced("forwarder", appliance.kill("forwarder"))
        wait_until(appliance.ready, 10, "the next one forwards")
    assert pinger.result(50)["answered"] == 40_000
    wait_until(lambda: "vale0:a" not in appliance.port_stats(), 5, "one port is gone")
    stats = appliance.port_stats()["vale0:b"]
    assert (stats["rx_frames"], stats["tx_frames"]) == (40_000, 40_000)
    appliance.check_ledger()


def test_members_are_killed(appliance: Appliance, programs: NetmapPrograms) -> None:
    """At random points; those who live lose nothing, and nothing is left of the dead."""
    seed = random.randrange(1 << 32)
    choose = random.Random(seed)
    pinger, _ = couple(appliance, programs, 60_000)
    wait_until(lambda: answers(appliance) > 100, 10, "they know each other")
    before = fds(appliance, "keeper", "forwarder")
    for number in range(KILLS):
        options = {"from": 3, "to": 1 + number % 2, "frames": 1 << 30}
        member = programs.start("send", "vale0:c", **options)
        time.sleep(choose.random() * 0.1)
        member.kill()
    # an answer that comes in one batch with another's frame behind it is not seen by the pinger
    assert pinger.result(50)["answered"] >= 60_000 - 4 * KILLS, f"seed {seed}"
    wait_until(lambda: list(appliance.port_stats()) == ["vale0:b"], 5, "one port is left")
    appliance.check_ledger()
    assert fds(appliance, "keeper", "forwarder") <= before


def test_a_member_writes_nonsense(appliance: Appliance, programs: NetmapPrograms) -> None:
    """Into everything it has, as long as the others go on: its port's memory, and its pairs."""
    seed = random.randrange(1 << 32)
    choose = random.Random(seed)
    pinger, _ = couple(appliance, programs, PINGS)
    wait_until(lambda: answers(appliance) > 100, 10, "they know each other")
    with Program(appliance.home / "run/netmap.sock") as hostile:
        assert hostile.register("vale0:x").error == 0
        memory = hostile.memory
        assert memory is not None
        wait_until(lambda: memory.direct != 0, 5, "it is in direct mode")
        shared: dict[int, Memory] = {}

        def both() -> bool:
            for index in range(8):
                answer = hostile.call(wire.PEER, index=index)
                if not answer.error and index not in shared:
                    shared[index] = Memory(answer.fds[0], answer.side)
                for fd in answer.fds:
                    os.close(fd)
            return len(shared) == 2

        wait_until(both, 5, "it shares a memory with each of the others")
        pairs = list(shared.values())
        written = 0
        while pinger.process.poll() is None:
            map = choose.choice([memory, *pairs]).map
            at = choose.randrange(28 if map is memory.map else 0, 16384 + 65536 - ANYTHING)
            map[at : at + ANYTHING] = choose.randbytes(ANYTHING)
            written += 1
        assert written > 1000
        assert pinger.result(60)["answered"] == PINGS, f"seed {seed}"
        for pair in pairs:
            pair.close()
    wait_until(lambda: list(appliance.port_stats()) == ["vale0:b"], 5, "one port is left")
    appliance.check_ledger()


def test_no_frame_passes_by_a_rule(appliance: Appliance, programs: NetmapPrograms) -> None:
    """What has to see the frames sees all of them from its acknowledgement on."""
    couple(appliance, programs, 1 << 30)
    wait_until(lambda: answers(appliance) > 100, 10, "they know each other")
    rule = {"id": "none", "match": {"eth": {"type": "0x88b5"}}, "action": {"type": "drop"}}
    appliance.call("PUT", "/bridges/vale0", {"spec": {"clients": {"mode": "relay"}}})
    attach = [{"bridge": "vale0", "direction": "ingress"}]
    appliance.put_rules("fw", [rule], attach=attach)
    time.sleep(0.05)  # for a frame on its way, and one answer to it
    before = answers(appliance)
    wait_until(lambda: appliance.hits("fw")["none"] > 2, 10, "frames meet the rule")
    assert answers(appliance) == before
    appliance.call("DELETE", "/rulesets/fw")
    appliance.put_bridge("vale0", clients={"mode": "direct"}, fdb={"ageing_s": 0})
    wait_until(lambda: answers(appliance) > before + 100, 10, "and pass again")
