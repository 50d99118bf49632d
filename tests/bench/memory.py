"""The engine's own cost: switching between ports in memory, beside a bare loop over the same
rings with the same FDB lookup and nothing else.

The measuring is C, so that no interpreter stands between: `bench_memory --seconds S` measures
both sides of each of its cases once, alternating, and prints

    {"cases": [{"name": "memory, 1,000 MACs",
                "ours_frames_per_s": 1.0e7, "bare_frames_per_s": 1.5e7}, ...]}
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
TARGET = 0.6


def measure(rounds: int, seconds: float, say: Callable[[str], None]) -> list[Result]:
    """All cases of bench_memory, `rounds` times."""
    found: dict[str, Result] = {}
    try:
        program = tool("bench_memory")
        for number in range(rounds):
            report: dict[str, Any] = json.loads(run(program, "--seconds", str(seconds)))
            for case in report["cases"]:
                result = found.setdefault(case["name"], _empty(case["name"]))
                ours, bare = float(case["ours_frames_per_s"]), float(case["bare_frames_per_s"])
                result.samples[OURS].append(Sample(ours, {"ns_per_frame": 1e9 / ours}))
                result.samples[BARE].append(Sample(bare, {"ns_per_frame": 1e9 / bare}))
                say(f"{case['name']} {number + 1}/{rounds}: {ours / 1e6:.1f}, {bare / 1e6:.1f} M/s")
    except Exception as error:  # the other cases' figures must not be lost
        say(f"{NAME}: {error!r}")
        return [_empty(NAME, f"{type(error).__name__}: {error}")]
    return list(found.values())


def _empty(name: str, error: str | None = None) -> Result:
    samples: dict[str, list[Sample]] = {OURS: [], BARE: []}
    return Result(name, "frames/s", OURS, BARE, TARGET, True, samples, error)
