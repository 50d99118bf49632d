"""The engine's own cost: switching between memory ports, and from one null port to another, beside
a bare loop over the same ports with the same FDB lookups (between memory ports of both addresses,
as a switch that learns needs them) and nothing else; and the same through a pipe between two
bridges.

The measuring is C, so that no interpreter stands between: tests/bench/bench_memory.c and
bench_pipe.c let both take turns and print the median nanoseconds a frame of each, for each number
of addresses.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tests.bench import machine
from tests.bench.cases import Sample
from tests.bench.results import Result
from tests.support.probes import tool
from tests.support.topology import run

NAME = "memory switching"
PROGRAMS = {"bench_memory": NAME, "bench_pipe": f"{NAME}, pipe between two bridges"}
PORTS = {
    "memory": NAME,
    "memory_vlan": f"{NAME}, VLANs filtered",
    "null": f"{NAME}, null ports",
    "pipe": PROGRAMS["bench_pipe"],
}
OURS = "engine"
BARE = "bare loop"
TARGETS = {
    (port, macs): target
    for port, target in (("memory", 0.85), ("memory_vlan", 0.75))
    for macs in (1_000, 100_000, 1_000_000)
}
RUNS_MAX = 3  # each takes nine turns of either
LIMIT_S = 600.0  # of one program, on a machine that is busy


def measure(wanted: Sequence[str], rounds: int, say: Callable[[str], None]) -> Iterator[Result]:
    """One result for each kind of port and number of addresses, of the programs whose name
    contains one of the texts."""
    for program, name in PROGRAMS.items():
        if any(text in name for text in wanted):
            try:
                yield from _measure(program, min(rounds, RUNS_MAX), say)
            except Exception as error:  # the other cases' figures must not be lost
                say(f"{name}: {error!r}")
                yield _empty(name, None, f"{type(error).__name__}: {error}")


def _measure(program: str, rounds: int, say: Callable[[str], None]) -> Iterable[Result]:
    found: dict[tuple[str, int], Result] = {}
    path = tool(program)
    noise = machine.noise()
    for number in range(rounds):
        report: dict[str, Any] = json.loads(run(path, timeout_s=LIMIT_S))
        for case in report["results"]:
            key = str(case["port"]), int(case["macs"])
            name = f"{PORTS[key[0]]}, {key[1]:,} MACs"
            result = found.setdefault(key, _empty(name, TARGETS.get(key)))
            result.noise.update(noise)
            for side, field in ((OURS, "switch_ns"), (BARE, "bare_ns")):
                ns = float(case[field])
                result.samples[side].append(Sample(1e9 / ns, {"ns_per_frame": ns}))
            say(f"{name} {number + 1}: {case['switch_ns']} ns, bare {case['bare_ns']} ns")
    return found.values()


def _empty(name: str, target: float | None, error: str | None = None) -> Result:
    samples: dict[str, list[Sample]] = {OURS: [], BARE: []}
    return Result(name, "frames/s", OURS, {BARE: target}, samples=samples, error=error)
