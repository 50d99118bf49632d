"""`python -m tests.bench` (as root): the appliance beside its peers, in one run.

    --quick             3 rounds of 1 s: about seven minutes, a first impression only
    --rounds N          rounds of each case (default 5)
    --seconds S         length of one measurement (default 3)
    --only TEXT         cases whose name contains TEXT; may be repeated
    --realtime          everything that is measured goes before other work of the machine, which
                        nearly stands still meanwhile: figures of a machine that is not idle
    --json PATH         where the whole report goes (default bench-results/bench.json)
    --write-docs        rewrite the figures of docs/performance.md from this run
    --classbench DIR    rule sets of ClassBench to measure beside the generated ones
    --from PATH         measure nothing, show (and --write-docs) an earlier report

Only ratios of one run count: the subjects of a case are measured in turn, round by round, and
the median of the rounds' ratios is what is compared with the target. The exit status is 1 when a
case could not be measured; a missed target is a figure, not a failure.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.bench import docs, memory, netmap, results, rule_peers, rules
from tests.bench.cases import (
    AF_PACKET,
    BRIDGE,
    BRIDGE_VXLAN,
    CASES,
    NOTHING,
    PIPE,
    TAP,
    TWO_BRIDGES,
    UDP,
    VXLAN,
    Case,
)
from tests.bench.joined import BridgePair, KernelTunnel, OursPipe, OursTunnel
from tests.bench.results import Result
from tests.bench.subjects import Bridge, Ours, OursTap, Plain, Subject, set_realtime
from tests.support.probes import ROOT

SUBJECTS: dict[str, Callable[[], Subject]] = {
    AF_PACKET: Ours,
    TAP: OursTap,
    PIPE: OursPipe,
    VXLAN: lambda: OursTunnel("vxlan"),
    UDP: lambda: OursTunnel("udp"),
    BRIDGE: Bridge,
    BRIDGE_VXLAN: KernelTunnel,
    TWO_BRIDGES: BridgePair,
    NOTHING: Plain,
}


def say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


def make_subjects(names: Sequence[str], stack: contextlib.ExitStack) -> dict[str, Subject]:
    """Starts the subjects that are needed."""
    subjects: dict[str, Subject] = {}
    for name in dict.fromkeys(names):
        say(f"starting: {name}")
        subjects[name] = stack.enter_context(SUBJECTS[name]())
    return subjects


def names_of(case: Case) -> list[str]:
    return [name for name in (case.ours, case.peer, case.reference) if name is not None]


def run_case(case: Case, subjects: dict[str, Subject], rounds: int, seconds: float) -> Result:
    """All rounds of one case; every other round goes through the subjects backwards."""
    names = names_of(case)
    result = Result(
        case.name,
        case.unit,
        case.ours,
        case.peer,
        case.target,
        case.higher_is_better,
        {name: [] for name in names},
    )
    for number in range(rounds):
        for name in names if number % 2 == 0 else reversed(names):
            sample = case.measure(subjects[name], seconds)
            result.samples[name].append(sample)
        values = ", ".join(f"{name} {result.samples[name][-1].value:,.4g}" for name in names)
        say(f"{case.name} {number + 1}/{rounds}: {values} {case.unit}")
    return result


def measure(cases: Sequence[Case], rounds: int, seconds: float, realtime: bool) -> list[Result]:
    done: list[Result] = []
    with contextlib.ExitStack() as stack:
        subjects = make_subjects([n for case in cases for n in names_of(case)], stack)
        if realtime:
            for pid in [os.getpid(), *(pid for s in subjects.values() for pid in s.pids())]:
                set_realtime(pid)
        for case in cases:
            try:
                done.append(run_case(case, subjects, rounds, seconds))
            except Exception as error:  # one broken case must not lose the others' figures
                say(f"{case.name}: {error!r}")
                done.append(
                    Result(
                        case.name,
                        case.unit,
                        case.ours,
                        case.peer,
                        case.target,
                        case.higher_is_better,
                        error=f"{type(error).__name__}: {error}",
                    )
                )
        for subject in subjects.values():
            if isinstance(subject, Ours):
                subject.check()
    return done


def options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--realtime", action="store_true")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--json", type=Path, default=ROOT / "bench-results" / "bench.json")
    parser.add_argument("--classbench", type=Path)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--from", dest="earlier", type=Path)
    chosen = parser.parse_args(argv)
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (1 if chosen.quick else 3)
    return chosen


def main(argv: Sequence[str]) -> int:
    chosen = options(argv)
    if chosen.earlier is not None:
        report: dict[str, Any] = json.loads(chosen.earlier.read_text())
    else:
        if os.geteuid() != 0:
            say("network namespaces need root: run this as root")
            return 1
        report = {
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "command": shlex.join(["python", "-m", "tests.bench", *argv]),
            "machine": results.machine(),
            "rounds": chosen.rounds,
            "seconds": chosen.seconds,
        }
        wanted = chosen.only or [""]
        cases = [c for c in CASES if any(text in c.name for text in wanted)]
        found = measure(cases, chosen.rounds, chosen.seconds, chosen.realtime) if cases else []
        found += memory.measure(wanted, chosen.rounds, say)
        if any(text in rules.NAME for text in wanted):
            report["rules"] = [asdict(row) for row in rules.measure(say, chosen.classbench)]
        if any(text in rule_peers.NAME for text in wanted):
            report["rule_peers"] = [asdict(row) for row in rule_peers.usual(chosen.seconds)]
        found_netmap = netmap.measure(wanted, chosen.rounds, chosen.seconds, say)
        if found_netmap:
            report["netmap"] = [asdict(row) for row in found_netmap]
        report["machine"]["load_after"] = list(os.getloadavg())
        report["cases"] = [result.as_json() for result in found]
        results.write_json(report, chosen.json)
        say(f"the whole report is in {chosen.json}")
    sys.stdout.write(results.text_table(results.rows(report)))
    sys.stdout.writelines(rules.text([rules.Row(**row) for row in report.get("rules", ())]))
    sys.stdout.writelines(netmap.text([netmap.Row(**row) for row in report.get("netmap", ())]))
    rows = [rule_peers.Row(**row) for row in report.get("rule_peers", ())]
    sys.stdout.writelines(rule_peers.text(rows))
    if chosen.write_docs:
        docs.write(report, ROOT / "docs" / "performance.md")
    return 1 if any(case["error"] is not None for case in report["cases"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
