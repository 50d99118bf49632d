"""What a frame costs as the switch grows, in memory on one core: more ports, addresses, bridges
(bench_growth.c) and rules (bench_rules.c).

The points of a curve are measured in turn, up and then down again, so that a machine that changes
its pace meanwhile does not bend the curve. A cliff would be a step that costs more than the growth
explains; each curve names its steepest.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench import rulesets
from tests.support.probes import tool
from tests.support.topology import run

NAME = "growth"
LIMIT_S = 120.0
ADDRESSES = 1_000
ADDRESS_PORTS = 4
BRIDGE_PORTS = 4
PORTS = (2, 4, 8, 16, 32, 64, 128, 256)
BRIDGES = (1, 2, 4, 8, 16, 32, 64)
MACS = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
RULES = (1, 10, 100, 1_000, 10_000, 100_000)
RULES_ROUNDS_MAX = 1  # bench_rules takes its turns itself
FLOWS = "1000"


@dataclass(frozen=True)
class Point:
    """``x``: how large; ``ns`` a frame, median of the rounds, by what was measured."""

    curve: str
    x: int
    ns: dict[str, float]


@dataclass(frozen=True)
class Curve:
    """``arguments``: of bench_growth for one x."""

    name: str
    xs: Sequence[int]
    arguments: Callable[[int], tuple[int, int, int]]


CURVES = (
    Curve("ports", PORTS, lambda x: (x, 1, ADDRESSES)),
    Curve("addresses", MACS, lambda x: (ADDRESS_PORTS, 1, x)),
    Curve("bridges", BRIDGES, lambda x: (BRIDGE_PORTS * x, x, ADDRESSES)),
)
TITLES = {
    "ports": f"ports of one bridge, {ADDRESSES:,} addresses, destinations at random",
    "addresses": f"addresses of one bridge with {ADDRESS_PORTS} ports, at random",
    "bridges": f"bridges of {BRIDGE_PORTS} ports and {ADDRESSES:,} addresses each",
    "rules": "rules at a bridge's ingress",
}


@dataclass
class _Samples:
    ns: dict[str, list[float]] = field(default_factory=dict)

    def add(self, found: dict[str, float]) -> None:
        for what, value in found.items():
            self.ns.setdefault(what, []).append(value)


def measure(wanted: Sequence[str], rounds: int, say: Callable[[str], None]) -> list[Point]:
    """Curves whose name ("growth, ports") contains one of the texts."""
    points: list[Point] = []
    for curve in CURVES:
        if _asked(wanted, curve.name):
            points += _measured(curve.name, curve.xs, rounds, lambda x, c=curve: _frame(c, x), say)  # type: ignore[misc]
    if _asked(wanted, "rules"):
        points += _measured("rules", RULES, RULES_ROUNDS_MAX, _rules, say)
    return points


def _asked(wanted: Sequence[str], name: str) -> bool:
    return any(text in f"{NAME}, {name}" for text in wanted)


def _measured(
    name: str,
    xs: Sequence[int],
    rounds: int,
    one: Callable[[int], dict[str, float]],
    say: Callable[[str], None],
) -> list[Point]:
    samples = {x: _Samples() for x in xs}
    for number in range(rounds):
        for x in xs if number % 2 == 0 else reversed(xs):
            found = one(x)
            samples[x].add(found)
            values = ", ".join(f"{what} {value:.1f}" for what, value in found.items())
            say(f"{NAME}, {name}, {x:,} {number + 1}/{rounds}: {values} ns a frame")
    return [
        Point(name, x, {what: statistics.median(values) for what, values in found.ns.items()})
        for x, found in samples.items()
    ]


def _frame(curve: Curve, x: int) -> dict[str, float]:
    arguments = map(str, curve.arguments(x))
    report = json.loads(run(tool("bench_growth"), *arguments, timeout_s=LIMIT_S))
    return {"frame": float(report["ns"])}


def _rules(count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rules"
        rulesets.write(rulesets.generate("acl", count), path)
        report: dict[str, Any] = json.loads(run(tool("bench_rules"), str(path), timeout_s=LIMIT_S))
    return {
        "no rules": float(report["frame_ns"]),
        "flow known": float(report["hit_ns"][FLOWS]),
        "flow new": float(report["miss_ns"]),
    }


# --- as tables ------------------------------------------------------------------------------------


def curves(points: Sequence[Point]) -> dict[str, list[Point]]:
    """By name, each in order of x."""
    found: dict[str, list[Point]] = {}
    for point in points:
        found.setdefault(point.curve, []).append(point)
    return {name: sorted(those, key=lambda point: point.x) for name, those in found.items()}


def steepest(points: Sequence[Point], what: str) -> tuple[float, Point] | None:
    """The greatest factor from one point to the next one, and where it ends."""
    steps = [
        (after.ns[what] / before.ns[what], after) for before, after in itertools.pairwise(points)
    ]
    return max(steps, key=lambda step: step[0], default=None)


def text(points: Sequence[Point]) -> Iterator[str]:
    for name, those in curves(points).items():
        yield f"{NAME}, {TITLES[name]}; ns a frame\n"
        for what in those[0].ns:
            values = "  ".join(f"{p.x:,}: {p.ns[what]:.1f}" for p in those)
            yield f"  {what:12}{values}{_steepest_words(those, what)}\n"


def _steepest_words(points: Sequence[Point], what: str) -> str:
    step = steepest(points, what)
    return "" if step is None else f"  (steepest step: {step[0]:.2f} times, to {step[1].x:,})"


def markdown(points: Sequence[Point]) -> list[str]:
    lines: list[str] = []
    for name, those in curves(points).items():
        lines += [
            f"Growth, {TITLES[name]}, ns a frame:",
            "",
            f"| {name} | {' | '.join(f'{p.x:,}' for p in those)} | steepest step |",
            f"|---|{'---|' * (len(those) + 1)}",
        ]
        for what in those[0].ns:
            values = " | ".join(f"{p.ns[what]:.1f}" for p in those)
            step = steepest(those, what)
            words = "" if step is None else f"{step[0]:.2f} times, to {step[1].x:,}"
            lines.append(f"| {what} | {values} | {words} |")
        lines.append("")
    return lines
