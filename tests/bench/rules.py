"""What rules cost on one worker in memory: generated sets of every shape and size, and the real
ones of ClassBench where a directory has them.

The measuring is C (tests/bench/bench_rules.c): frames without rules, frames whose flow is in the
flow cache, frames whose flow is not, take turns between memory ports; then the classifier alone, a
linear search, builds and updates.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import rulesets
from tests.support.probes import tool
from tests.support.topology import run

NAME = "rules in memory"
TRACE = "_trace"  # a ClassBench file with this in its name holds headers, not rules
# What is wanted: a hit beside a frame without rules; a miss more than one, for the median set of
# about 10,000 rules and for the worst; a build of them, in ms.
HIT_RATIO = 2.0
MISS_MEDIAN_NS, MISS_WORST_NS = 200.0, 600.0
BUILD_MS = 50.0
MEDIUM = range(5_000, 20_000)
LIMIT_S = 300.0  # of one set, on a machine that is busy


@dataclass(frozen=True)
class Row:
    """One set; times in ns a frame where the name does not say otherwise."""

    name: str
    rules: int
    tables: int
    bytes: int
    build_ms: float
    update_p50_us: float
    update_p99_us: float
    frame_ns: float
    hit_ns: dict[str, float]  # by number of flows
    miss_ns: float
    victim_ns: float
    lookup_ns: float
    linear_ns: float

    @property
    def over_ns(self) -> float:
        """What a frame whose flow is new costs more than one without rules."""
        return self.miss_ns - self.frame_ns


def measure(say: Callable[[str], None], classbench: Path | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as directory:
        found = []
        for name, rules in _sets(classbench):
            path = Path(directory) / "rules"
            rulesets.write(rules, path)
            report: dict[str, Any] = json.loads(
                run(tool("bench_rules"), str(path), timeout_s=LIMIT_S)
            )
            found.append(_row(name, report))
            say(f"{NAME}, {name}: {json.dumps(report)}")
        return found


def _sets(classbench: Path | None) -> Iterator[tuple[str, Sequence[rulesets.FiveTuple]]]:
    for size in rulesets.SIZES:
        for shape in rulesets.SHAPES:
            yield f"{shape} {size:,}", rulesets.generate(shape, size)
    for path in sorted(classbench.glob("*k*") if classbench else ()):
        if TRACE not in path.name:
            yield f"ClassBench {path.name.removesuffix('.gz')}", rulesets.read(path)


def _row(name: str, report: dict[str, Any]) -> Row:
    plain = ("rules", "tables", "bytes", "build_ms", "frame_ns", "hit_ns", "miss_ns", "victim_ns")
    return Row(
        name,
        update_p50_us=report["update_us"]["p50"],
        update_p99_us=report["update_us"]["p99"],
        **{field: report[field] for field in (*plain, "lookup_ns", "linear_ns")},
    )


def text(rows: Sequence[Row]) -> Iterator[str]:
    """A table, and beside what is wanted what was found."""
    if not rows:
        return
    flows = list(rows[0].hit_ns)
    yield (
        f"{'set':24}{'tables':>7}{'MB':>7}{'build ms':>9}{'update us':>14}{'no rules':>9}"
        + "".join(f"{f'hit {int(n):,}':>13}" for n in flows)
        + f"{'miss':>8}{'attacked':>9}{'lookup':>8}{'linear':>10}\n"
    )
    for row in rows:
        yield (
            f"{row.name:24}{row.tables:7}{row.bytes / 1e6:7.1f}{row.build_ms:9.1f}"
            f"{f'{row.update_p50_us:.0f} / {row.update_p99_us:.0f}':>14}{row.frame_ns:9.1f}"
            + "".join(f"{row.hit_ns[n]:13.1f}" for n in flows)
            + f"{row.miss_ns:8.0f}{row.victim_ns:9.1f}{row.lookup_ns:8.0f}{row.linear_ns:10.0f}\n"
        )
    yield from (f"{NAME}: {line}\n" for line in verdicts(rows))


def verdicts(rows: Sequence[Row]) -> Iterator[str]:
    ratio = statistics.median(row.hit_ns["1000"] / row.frame_ns for row in rows)
    yield _verdict("a hit, 1,000 flows, beside a frame without rules", ratio, HIT_RATIO, "x")
    victim = statistics.median(row.hit_ns["1000"] / row.victim_ns for row in rows)
    yield f"1,000 flows beside an attack on tuple spaces: {100 * victim:.0f} % of their rate"
    medium = [row for row in rows if row.rules in MEDIUM]
    if medium:
        over = [row.over_ns for row in medium]
        what = "a miss among 10,000 rules, over a frame without rules"
        yield _verdict(f"{what}, median set", statistics.median(over), MISS_MEDIAN_NS, " ns")
        yield _verdict(f"{what}, worst set", max(over), MISS_WORST_NS, " ns")
        build = max(row.build_ms for row in medium)
        yield _verdict("a build of 10,000 rules, worst set", build, BUILD_MS, " ms")


def _verdict(what: str, found: float, wanted: float, unit: str) -> str:
    met = "met" if found <= wanted else "MISSED"
    return f"{what}: {found:.1f}{unit}, wanted <= {wanted:.0f}{unit}: {met}"
