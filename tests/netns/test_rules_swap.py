"""Rules are changed under traffic, and the forwarder dies under it: what is forbidden never passes,
what is allowed is never lost, and every frame meets one generation of the rules.

    host 0 ══ p0 [ the whole appliance ] p1 ══ host 1
      gen: what is allowed, and what is not ──► sinks
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.support.appliance import Appliance
from tests.support.probes import Generator, Load, Sink, teach
from tests.support.topology import Topology, wait_until

pytestmark = pytest.mark.root

GOOD = Load(stream=1, src="02:00:00:01:00:00", dst="02:00:00:02:00:00")
BAD = Load(stream=2, src="02:00:00:03:00:00", dst="02:00:00:04:00:00")
BOTH = [{"bridge": "br0", "direction": direction} for direction in ("ingress", "egress")]
KILLS = 5
SWAP_S = 0.01


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(addresses=False) as topology:
        yield topology


@pytest.fixture
def switch(net: Topology) -> Iterator[Appliance]:
    with Appliance(net, net.switch) as appliance:
        appliance.bridge("br0", *net.switch_ifs)
        yield appliance
        appliance.check_ledger()


def put_version(switch: Appliance, version: int, *, log: bool = False) -> None:
    """The same rules under ids of their own, so that what met them tells the version."""
    rules = [
        {
            "id": f"v{version}-{word}",
            "priority": priority,
            "match": match,
            "action": {"type": action},
            "log": log,
        }
        for word, priority, match, action in (
            ("no", 1, {"eth": {"src": BAD.src}}, "drop"),
            ("yes", 2, {}, "allow"),
        )
    ]
    switch.put_rules("fw", rules, attach=BOTH)


class Traffic:
    """Both streams at once, for so many seconds."""

    def __init__(self, net: Topology, seconds: float, rate: int) -> None:
        self._sinks = [
            Sink(net, 1, stream=load.stream, idle_ms=1000, seconds=seconds + 5)
            for load in (GOOD, BAD)
        ]
        loads = [replace(load, rate=rate, seconds=seconds) for load in (GOOD, BAD)]
        self._gens = [Generator(net, 0, load) for load in loads]

    @property
    def running(self) -> bool:
        return any(gen.process.poll() is None for gen in self._gens)

    def result(self) -> tuple[int, int, int, int]:
        """Sent and received of what is allowed, sent and received of what is not."""
        sent = [int(gen.result()["sent"]) for gen in self._gens]
        good = self._sinks[0].result()
        bad = self._sinks[1].stop()
        assert good["duplicates"] == 0
        return sent[0], good["unique"] + good["ring_drops"], sent[1], bad["unique"]


def test_nothing_forbidden_passes_while_the_forwarder_is_killed(
    net: Topology, switch: Appliance
) -> None:
    teach(net, GOOD)
    put_version(switch, 0)
    traffic = Traffic(net, 12, 5_000)
    kills = 0
    while traffic.running and kills < KILLS:
        old = switch.kill("forwarder")
        switch.wait_replaced("forwarder", old)
        wait_until(switch.ready, 20, "the appliance is ready again")
        kills += 1
        time.sleep(0.5)
    assert kills == KILLS
    good, arrived, _, passed = traffic.result()
    assert passed == 0
    assert arrived > good // 2
    assert sum(switch.hits("fw").values()) > 0


def test_nothing_forbidden_passes_when_everything_starts_again(
    net: Topology, switch: Appliance
) -> None:
    teach(net, GOOD)
    put_version(switch, 0)
    traffic = Traffic(net, 10, 5_000)
    wait_until(lambda: min(switch.hits("fw").values()) > 0, 10, "both streams meet their rules")
    switch.stop()
    switch.start()
    _, arrived, _, passed = traffic.result()
    assert passed == 0
    assert arrived > 0


def test_every_frame_meets_one_generation(net: Topology, switch: Appliance) -> None:
    """A set at ingress and egress is replaced up to 100 times a second, one call after the other.
    A frame is logged at both stages: by rules of one version, in one generation."""
    teach(net, GOOD)
    put_version(switch, 0, log=True)
    end = threading.Event()
    versions = [0]
    before = switch.drops("rule")

    def swap() -> None:
        while not end.is_set():
            began = time.monotonic()
            versions.append(versions[-1] + 1)
            put_version(switch, versions[-1], log=True)
            time.sleep(max(0.0, SWAP_S - (time.monotonic() - began)))

    swapper = threading.Thread(target=swap)
    records: dict[tuple[Any, ...], dict[str, Any]] = {}
    swapper.start()
    try:
        traffic = Traffic(net, 5, 500)
        while traffic.running:
            for row in switch.call("GET", "/rulesets/fw/log")["items"]:
                records[row["frame"], row["out_port"]] = row
            time.sleep(0.05)
        good, arrived, bad, passed = traffic.result()
    finally:
        end.set()
        swapper.join(30)
    assert (arrived, passed) == (good, 0)
    switch.check_ledger()
    assert switch.drops("rule") - before == bad

    both = 0
    version_of: dict[int, str] = {}
    for (frame, out_port), row in records.items():
        version = row["rule"].split("-")[0]
        assert version_of.setdefault(row["generation"], version) == version
        came = records.get((frame, None))
        if out_port is not None and came:
            both += 1
            assert (came["generation"], came["rule"]) == (row["generation"], row["rule"])
    assert both > 100
    assert len(set(version_of.values())) > 20
    assert len(versions) > 100
