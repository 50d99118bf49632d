"""What netmap programs reach on a switch, by /dev/netmap and without its module: programs of ours
(netmap_load.c), started as ``vswitch netmap-run`` does, on ports of the real appliance.

In ``relay`` every frame passes the forwarder, in ``direct`` programs of a bridge write to each
other. Cold senders go round 64 MiB of buffers; every receiver reads every byte. Paced receivers
sleep between frames.

What one sender and one receiver reach in ``direct`` stands beside what the machine allows: the same
two copies between two threads and nothing else (copies.c), measured in turn.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.appliance import Appliance
from tests.support.netmap_programs import NetmapProgram
from tests.support.probes import threads_cpu_ns, tool
from tests.support.topology import Topology, end_process
from vswitch import programs

NAME = "netmap programs"
MODES = ("relay", "direct")
PROGRAM = "netmap_load"
BARE = "copies"
# What is wanted on two cores, in millions of frames a second, of frames lost, or microseconds.
RATES = {
    ("relay", 60, "cold"): 20.0,
    ("direct", 60, "cold"): 60.0,
    ("direct", 1500, "cold"): 15.0,
}
LOSSES = {1e6: 0.0, 1e7: 0.001}
ROUND_TRIPS_US = {
    ("relay", "sleeping"): 30.0,
    ("relay", "spinning"): None,  # with the forwarder's, more threads that spin than processors
    ("direct", "sleeping"): 30.0,
    ("direct", "spinning"): 0.5,
}
IDLE_PERCENT = 0.5
LIMIT_S = 20.0  # beyond what a program measures, before it is given up
SETTLE_S = 1.0
NOTE_MAX = 200


@dataclass(frozen=True)
class Row:
    """``value``: a median, in ``unit``, None: it could not be measured; ``wanted``: what was asked
    for, None: nothing was. ``note``: what else was seen, or why. ``bare``: what the machine allows,
    in ``unit``; ``ratio``: to it, a median of the rounds' own; None: not measured."""

    name: str
    mode: str
    unit: str
    value: float | None
    wanted: float | None = None
    higher_is_better: bool = True
    note: str = ""
    bare: float | None = None
    ratio: float | None = None

    @property
    def beside(self) -> str:
        """What the machine allows, as text; empty: not measured."""
        if self.bare is None or self.ratio is None:
            return ""
        return f"{self.bare:.4g} ({self.ratio:.2f})"

    @property
    def verdict(self) -> str:
        if self.wanted is None:
            return ""
        bound = f"{'at least' if self.higher_is_better else 'at most'} {self.wanted:g}"
        if self.value is None:
            return bound
        good = self.value >= self.wanted if self.higher_is_better else self.value <= self.wanted
        return f"{bound}: {'yes' if good else 'no'}"


@dataclass(frozen=True)
class Crowd:
    """How many send and receive; stations of senders count from 1, of receivers from 101. Senders
    address all receivers in turn, unless there are as many: then each its own."""

    senders: int = 1
    receivers: int = 1

    @property
    def name(self) -> str:
        if self.senders == self.receivers > 1:
            return f"{2 * self.senders} ports"
        return f"{self.senders} to {self.receivers}"

    def stations_of(self, sender: int) -> str:
        if self.senders == self.receivers:
            return str(101 + sender)
        return ",".join(str(101 + n) for n in range(self.receivers))


ONE = Crowd()
CROWDS = (Crowd(2, 1), Crowd(1, 2), Crowd(8, 8))


class World:
    """An appliance with a switch for each mode, and the programs on them."""

    def __init__(self, appliance: Appliance) -> None:
        self._appliance = appliance
        self._started: list[NetmapProgram] = []
        for mode in MODES:
            appliance.put_bridge(_switch(mode), clients={"mode": mode})

    def start(self, mode: str, name: str, function: str, own: int, *words: str) -> NetmapProgram:
        environment = programs.environment(self._appliance.home / "run", dict(os.environ))
        port = f"{_switch(mode)}:{name}"
        argv = [tool(PROGRAM), "-i", port, "-f", function, "-a", str(own), *words]
        program = NetmapProgram(argv, environment, True)
        self._started.append(program)
        return program

    def forwarder_cpu_ns(self) -> int:
        pid = self._appliance.pid("forwarder")
        assert pid is not None
        return threads_cpu_ns(pid)

    def end_programs(self) -> None:
        while self._started:
            end_process(self._started.pop().process)

    def flow(self, mode: str, crowd: Crowd, seconds: float, *words: str) -> Flow:
        """Everybody sends for so long; receivers go on until nothing comes any more."""
        limit = ("-t", str(seconds + LIMIT_S))
        receivers = [
            self.start(mode, f"r{n}", "rx", 101 + n, *limit) for n in range(crowd.receivers)
        ]
        senders = [
            self.start(
                *(mode, f"s{n}", "tx", 1 + n, "-d", crowd.stations_of(n)),
                *("-t", str(seconds), *words),
            )
            for n in range(crowd.senders)
        ]
        sent = [sender.result(seconds + LIMIT_S) for sender in senders]
        received = [receiver.result(seconds + LIMIT_S) for receiver in receivers]
        return Flow(sent, received)


def _switch(mode: str) -> str:
    return f"vale{mode}"


@dataclass(frozen=True)
class Flow:
    """What senders and receivers reported."""

    sent: list[dict[str, Any]]
    received: list[dict[str, Any]]

    @property
    def rate(self) -> float:
        """Millions of frames a second, from the first that anybody received to the last."""
        those = [r for r in self.received if r["frames"]]
        if not those:
            return 0.0
        ns = max(r["last_ns"] for r in those) - min(r["first_ns"] for r in those)
        return 1e3 * sum(int(r["frames"]) for r in those) / ns if ns else 0.0

    @property
    def lost(self) -> float:
        """Of one; frames that were sent before a receiver's address was known do not count."""
        sent = sum(s["frames"] for s in self.sent)
        return 1 - sum(r["frames"] for r in self.received) / sent if sent else 1.0

    def cpu_ns(self, which: list[dict[str, Any]]) -> float:
        frames = sum(r["frames"] for r in which)
        return 1e9 * sum(float(r["cpu_s"]) for r in which) / frames if frames else 0.0


Measure = Callable[[World, float], tuple[float, str]]


def _rate(mode: str, crowd: Crowd, length: int, cold: bool) -> Measure:
    def measure(world: World, seconds: float) -> tuple[float, str]:
        words = ["-l", str(length), *(["-c"] if cold else [])]
        flow = world.flow(mode, crowd, seconds, *words)
        gbits = flow.rate * length * 8 / 1e3
        note = (
            f"{gbits:.1f} Gbit/s, {100 * flow.lost:.1f} % beyond it; sender "
            f"{flow.cpu_ns(flow.sent):.0f} ns a frame, receiver {flow.cpu_ns(flow.received):.0f}"
        )
        return flow.rate, note

    return measure


def _bare(length: int, cold: bool) -> Callable[[float], float]:
    """Millions of frames a second that two copies and nothing else reach."""

    def measure(seconds: float) -> float:
        argv = [tool(BARE), "-l", str(length), "-t", str(seconds), *(["-c"] if cold else [])]
        done = subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=seconds + LIMIT_S
        )
        found = json.loads(done.stdout)
        return float(found["frames"]) / float(found["seconds"]) / 1e6

    return measure


def _loss(mode: str, rate: float) -> Measure:
    def measure(world: World, seconds: float) -> tuple[float, str]:
        flow = world.flow(mode, ONE, seconds, "-R", str(int(rate)))
        return 100 * flow.lost, f"{flow.rate:.2f} M/s arrived"

    return measure


def _round_trip(mode: str, how: str) -> Measure:
    def measure(world: World, seconds: float) -> tuple[float, str]:
        words = ["-b"] if how == "spinning" else []
        limit = str(seconds + LIMIT_S)
        world.start(mode, "pong", "pong", 101, "-d", "1", "-t", limit, *words)
        ping = world.start(mode, "ping", "ping", 1, "-d", "101", "-t", str(seconds), *words)
        found = ping.result(seconds + LIMIT_S)["round_trip_us"]
        return float(found["p50"]), f"99 % within {found['p99']:.1f}"

    return measure


def _idle(mode: str) -> Measure:
    """The forwarder's and both programs' share of one processor while nothing is sent."""

    def measure(world: World, seconds: float) -> tuple[float, str]:
        idle = [world.start(mode, f"i{n}", "rx", 1 + n, "-t", "3600") for n in range(2)]
        time.sleep(SETTLE_S)
        pids = [program.process.pid for program in idle]
        before = [world.forwarder_cpu_ns(), sum(map(threads_cpu_ns, pids))]
        time.sleep(seconds)
        after = [world.forwarder_cpu_ns(), sum(map(threads_cpu_ns, pids))]
        shares = [100 * (b - a) / (seconds * 1e9) for a, b in zip(before, after, strict=True)]
        return sum(shares), f"forwarder {shares[0]:.2f}, programs {shares[1]:.2f}"

    return measure


@dataclass(frozen=True)
class Case:
    name: str
    mode: str
    unit: str
    measure: Measure
    wanted: float | None = None
    higher_is_better: bool = True
    bare: Callable[[float], float] | None = None


def cases() -> Iterator[Case]:
    for mode in MODES:
        for length in (60, 1500):
            for cache in ("warm", "cold"):
                yield Case(
                    f"{ONE.name}, {length} B, {cache}",
                    mode,
                    "M frames/s",
                    _rate(mode, ONE, length, cache == "cold"),
                    RATES.get((mode, length, cache)),
                    bare=_bare(length, cache == "cold") if mode == "direct" else None,
                )
        for crowd in CROWDS:
            name = f"{crowd.name}, 60 B, cold"
            yield Case(name, mode, "M frames/s", _rate(mode, crowd, 60, True))
        for rate, lost in LOSSES.items():
            name = f"lost at {rate / 1e6:.0f} M/s"
            yield Case(name, mode, "%", _loss(mode, rate), 100 * lost, False)
        for (of, how), most in ROUND_TRIPS_US.items():
            if of == mode:
                yield Case(f"round trip, {how}", mode, "us", _round_trip(mode, how), most, False)
        yield Case("idle", mode, "% of a CPU", _idle(mode), IDLE_PERCENT, False)


def measure(
    wanted: Sequence[str], rounds: int, seconds: float, say: Callable[[str], None]
) -> list[Row]:
    """Cases whose name ("netmap programs, relay, 1 to 1, 60 B, warm") contains one of the texts."""
    chosen = [c for c in cases() if any(text in f"{NAME}, {c.mode}, {c.name}" for text in wanted)]
    if not chosen:
        return []
    with Topology(hosts=1) as net, Appliance(net, net.switch) as appliance:
        world = World(appliance)
        return [_measured(case, world, rounds, seconds, say) for case in chosen]


def _measured(
    case: Case, world: World, rounds: int, seconds: float, say: Callable[[str], None]
) -> Row:
    samples: list[tuple[float, str]] = []
    bare: list[tuple[float, float]] = []  # and the ratio to it
    note = ""
    for number in range(rounds):
        try:
            samples.append(case.measure(world, seconds))
            if case.bare:
                allowed = case.bare(seconds)
                bare.append((allowed, samples[-1][0] / allowed))
        except Exception as error:  # the other cases' figures must not be lost
            note = f"failed: {type(error).__name__}: {error}"[:NOTE_MAX]
        else:
            value, said = samples[-1]
            beside = f", bare copies {bare[-1][0]:.4g}" if case.bare else ""
            say(
                f"{NAME}, {case.mode}, {case.name} {number + 1}/{rounds}: "
                f"{value:.4g} ({said}){beside}"
            )
        finally:
            world.end_programs()
    if samples:
        middle = statistics.median_low(value for value, _ in samples)
        note = next(said for value, said in samples if value == middle)
    else:
        say(f"{NAME}, {case.mode}, {case.name}: {note}")
    return Row(
        case.name,
        case.mode,
        case.unit,
        middle if samples else None,
        case.wanted,
        case.higher_is_better,
        note,
        statistics.median(allowed for allowed, _ in bare) if bare else None,
        statistics.median(ratio for _, ratio in bare) if bare else None,
    )


def text(rows: Sequence[Row]) -> Iterator[str]:
    """A table, and beside what is wanted what was found."""
    for row in rows:
        value = "-" if row.value is None else f"{row.value:.4g}"
        beside = f"bare copies {row.beside}; " if row.beside else ""
        yield (
            f"{row.mode:8}{row.name:28}{value:>10} {row.unit:12}{row.verdict:24}"
            f"{beside}{row.note}\n"
        )


def markdown(rows: Sequence[Row]) -> list[str]:
    """The table of docs/performance.md; nothing where nothing was measured."""
    if not rows:
        return []
    return [
        "Programs of ours on `/dev/netmap`, without the module, medians of the rounds. Receivers "
        "read every byte; cold senders go round 64 MiB of buffers; what a sender sends beyond what "
        "arrives was dropped at a full inbox. Bare copies: the same two copies between two threads "
        "and nothing else, and the ratio to them.",
        "",
        "| mode | case | found | wanted | bare copies (ratio) | seen |",
        "|---|---|---|---|---|---|",
        *(
            f"| {row.mode} | {row.name} | {'-' if row.value is None else f'{row.value:.4g}'} "
            f"{row.unit} | {row.verdict} | {row.beside} | {row.note} |"
            for row in rows
        ),
        "",
    ]
