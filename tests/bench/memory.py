"""The engine's own cost: switching between memory ports, and from one null port to another, beside
a bare loop over the same ports with the same FDB lookup and nothing else.

The measuring is C, so that no interpreter stands between: tests/bench/bench_memory.c lets both
take turns and prints the median nanoseconds a frame of each, for each number of addresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.bench.cases import Sample
from tests.bench.results import Result
from tests.support.probes import tool
from tests.support.topology import run

NAME = "memory switching"
OURS = "engine"
BARE = "bare loop"
TARGETS = {1000: 0.6}
RUNS_MAX = 3  # each takes nine turns of either


def measure(rounds: int, say: Callable[[str], None]) -> list[Result]:
    """One result for each number of addresses."""
    found: dict[tuple[str, int], Result] = {}
    try:
        program = tool("bench_memory")
        for number in range(min(rounds, RUNS_MAX)):
            report: dict[str, Any] = json.loads(run(program))
            for case in report["results"]:
                port, macs = str(case["port"]), int(case["macs"])
                name = NAME if port == "memory" else f"{NAME}, {port} ports"
                result = found.setdefault(
                    (port, macs), _empty(f"{name}, {macs:,} MACs", TARGETS.get(macs))
                )
                for side, field in ((OURS, "switch_ns"), (BARE, "bare_ns")):
                    ns = float(case[field])
                    result.samples[side].append(Sample(1e9 / ns, {"ns_per_frame": ns}))
                say(
                    f"{result.name} {number + 1}: {case['switch_ns']} ns, bare {case['bare_ns']} ns"
                )
    except Exception as error:  # the other cases' figures must not be lost
        say(f"{NAME}: {error!r}")
        return [_empty(NAME, None, f"{type(error).__name__}: {error}")]
    return list(found.values())


def _empty(name: str, target: float | None, error: str | None = None) -> Result:
    samples: dict[str, list[Sample]] = {OURS: [], BARE: []}
    return Result(name, "frames/s", OURS, BARE, target, True, samples, error)
