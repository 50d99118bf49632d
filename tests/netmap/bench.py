"""bench: our forwarder beside the module's own `bridge` program, in turn, in one boot.

    interfaces  gen, veth, netmap ── forwarder or bridge ── netmap, veth, sink
    VALE        pkt-gen, vale1 ── forwarder or bridge ── vale2, pkt-gen

Offered is what the sender could; the rate is that of the frames that arrived. Processors are
emulated, so only the ratio of neighbouring rounds says something, and not much.
"""

from __future__ import annotations

import contextlib
import re
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.netmap.image import EXTRAS
from tests.netmap.report import Check
from tests.netmap.rings import vale_list
from tests.netmap.world import World, netmap
from tests.support.probes import Load, passage, teach, threads_cpu_ns
from tests.support.topology import end_process, wait_until

ITEM = "bench"
PROGRAMS = {"bridge": "NETMAP_BRIDGE", "pkt-gen": "NETMAP_PKT_GEN"}  # and who says where they are
ROUNDS = 3
SECONDS = 2.0
SIZE = 60  # without FCS: "64 B"
STARTED_S = 60.0  # what an emulated processor may need
_SPOKE = re.compile(r"^(?:Sent|Received) (\d+) packets .* in ([0-9.]+) seconds\.$", re.MULTILINE)


def there() -> bool:
    """Are the module's programs in this guest?"""
    return all((EXTRAS / name).exists() for name in PROGRAMS)


@dataclass(frozen=True)
class Traffic:
    """Frames of one round; `seconds` from the first arrival to the last."""

    offered: int
    arrived: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.arrived / self.seconds


@dataclass(frozen=True)
class Round:
    traffic: Traffic
    cpu_ns: int  # of the process that forwards

    def __str__(self) -> str:
        traffic = self.traffic
        lost = traffic.offered - traffic.arrived
        return (
            f"{traffic.rate:,.0f} frames/s, {self.cpu_ns / traffic.arrived:,.0f} ns/frame, "
            f"{lost:,} of {traffic.offered:,} lost"
        )


@contextlib.contextmanager
def _ours(world: World, ports: list[str]) -> Iterator[int]:
    with world.bridge("bench", p0=netmap(ports[0]), p1=netmap(ports[1])):
        pid = world.switch.pid("forwarder")
        assert pid is not None
        yield pid
        world.switch.check_ledger()


@contextlib.contextmanager
def _theirs(world: World, ports: list[str]) -> Iterator[int]:
    process = world.net.start(
        *(world.net.switch, str(EXTRAS / "bridge"), "-w", "1"),
        *("-i", ports[0], "-i", ports[1]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if "Ready to go" in line:
                break
        assert process.poll() is None, f"bridge ended with {process.returncode}"
        yield process.pid
    finally:
        end_process(process)


def _interfaces(world: World) -> Traffic:
    load = Load(bytes=SIZE, seconds=SECONDS)
    wait_until(lambda: world.ping(0, 1, 1) == 1, STARTED_S, "frames pass")
    teach(world.net, load)
    result = passage(world.net, load)
    late = int(result.sink["ring_drops"])  # the receiver was too slow for them: they did arrive
    arrived = int(result.sink["unique"]) + late
    return Traffic(int(result.gen["sent"]), arrived, float(result.sink["seconds"]))


def _vale(world: World) -> Traffic:
    def generator(port: str, function: str, *more: str) -> subprocess.Popen[str]:
        return world.net.start(
            *(world.net.switch, str(EXTRAS / "pkt-gen"), "-i", port, "-f", function),
            *("-w", "1", *more),
            stderr=subprocess.DEVNULL,
        )

    def spoken(process: subprocess.Popen[str]) -> tuple[int, float]:
        said, _ = process.communicate(timeout=STARTED_S)
        found = _SPOKE.search(said)
        assert found is not None, f"pkt-gen said: {said}"
        return int(found[1]), float(found[2])

    sink = generator("vale2:rx", "rx", "-W")  # ends after a second of silence
    wait_until(lambda: "rx" in _members(world, "vale2"), STARTED_S, "the receiver is there")
    addresses = ("-S", "02:00:00:01:00:00", "-D", "02:00:00:02:00:00")
    source = generator("vale1:tx", "tx", "-l", str(SIZE), *addresses)
    wait_until(lambda: "tx" in _members(world, "vale1"), STARTED_S, "the sender is there")
    time.sleep(1 + SECONDS)
    assert sink.poll() is None, "the receiver ended before the sender did"
    source.send_signal(signal.SIGINT)
    return Traffic(spoken(source)[0], *spoken(sink))


def _members(world: World, switch: str) -> list[str]:
    return [name.partition(":")[2] for name in world.here(lambda: vale_list(switch))]


def _compare(world: World, ports: list[str], offer: Callable[[World], Traffic]) -> str:
    found: dict[str, list[Round]] = {"forwarder": [], "bridge": []}
    sides = {"forwarder": _ours, "bridge": _theirs}
    for number in range(ROUNDS):
        for name in sides if number % 2 == 0 else reversed(sides):
            with sides[name](world, ports) as pid:
                before = threads_cpu_ns(pid)
                traffic = offer(world)
                assert traffic.arrived > 0, f"{name}: nothing arrived"
                found[name].append(Round(traffic, threads_cpu_ns(pid) - before))
    ratios = [
        ours.traffic.rate / theirs.traffic.rate
        for ours, theirs in zip(found["forwarder"], found["bridge"], strict=True)
    ]
    said = [f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"]
    for name, rounds in found.items():
        said.append(f"{name} {sorted(rounds, key=lambda r: r.traffic.rate)[len(rounds) // 2]}")
    return "; ".join(said)


def interfaces(world: World) -> str:
    ports = [f"netmap:{ifname}" for ifname in world.net.switch_ifs[:2]]
    for ifname in world.net.switch_ifs[:2]:  # bridge expects it to be done; our port does it
        world.net.run(world.net.switch, "ip", "link", "set", ifname, "promisc", "on")
    try:
        return _compare(world, ports, _interfaces)
    finally:
        for ifname in world.net.switch_ifs[:2]:
            world.net.run(world.net.switch, "ip", "link", "set", ifname, "promisc", "off")


def vale(world: World) -> str:
    return _compare(world, ["vale1:m", "vale2:m"], _vale)


CHECKS = (
    Check(ITEM, "interface to interface, beside the module's bridge program", interfaces),
    Check(ITEM, "VALE switch to VALE switch, beside the module's bridge program", vale),
)
