"""`python -m tests.bench` (as root): the appliance beside its peers, in one run.

    --quick             3 rounds of 1 s: a first impression only
    --rounds N          rounds of each case (default 5)
    --seconds S         length of one measurement (default 3)
    --only TEXT         cases whose name contains TEXT; may be repeated
    --without PEER      leave out peers whose name contains PEER; may be repeated
    --list              name the cases and their peers, and the packages that are missing
    --realtime          everything that is measured goes before other work of the machine, which
                        nearly stands still meanwhile: figures of a machine that is not idle
    --json PATH         where the whole report goes (default bench-results/bench.json)
    --write-docs        rewrite the figures of docs/performance.md and docs/performance.json, the
                        committed ones, where this run measured, and the plots
    --classbench DIR    rule sets of ClassBench to measure beside the generated ones
    --from PATH         measure nothing, show (and --write-docs) an earlier report

Only ratios of one run count: the subjects of a case are measured in turn, round by round, and
the median of the rounds' ratios is what is compared with the target, and with the committed
figures: a ratio that is 15 % lower than there is reported. Peers that are not installed are named
and left out (`make bench-peers` installs them). The exit status is 1 when something could not be
measured that should have been; a missed target is a figure, not a failure.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench import (
    baseline,
    docs,
    growth,
    machine,
    memory,
    netmap,
    plots,
    results,
    rule_peers,
    rules,
    runner,
    sections,
    table,
)
from tests.bench.cases import Case
from tests.bench.catalogue import CASES, SUBJECTS
from tests.bench.peers import missing
from tests.support.probes import ROOT


def say(text: str) -> None:
    sys.stderr.write(f"bench: {text}\n")
    sys.stderr.flush()


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
    parser.add_argument("--without", action="append", default=[])
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--json", type=Path, default=ROOT / "bench-results" / "bench.json")
    parser.add_argument("--classbench", type=Path)
    parser.add_argument("--write-docs", action="store_true")
    parser.add_argument("--from", dest="earlier", type=Path)
    chosen = parser.parse_args(argv)
    chosen.rounds = chosen.rounds or (3 if chosen.quick else 5)
    chosen.seconds = chosen.seconds or (1 if chosen.quick else 3)
    return chosen


def chosen_cases(only: Sequence[str], without: Sequence[str]) -> list[Case]:
    """The cases asked for, without the peers that are not."""
    return [
        dataclasses.replace(
            case,
            peers={
                name: target
                for name, target in case.peers.items()
                if not any(text in name for text in without)
            },
        )
        for case in CASES
        if any(text in case.name for text in only)
    ]


def measure(chosen: argparse.Namespace, argv: Sequence[str]) -> dict[str, Any]:
    only = chosen.only or [""]
    run: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["python", "-m", "tests.bench", *argv]),
        "machine": machine.describe(),
        "rounds": chosen.rounds,
        "seconds": chosen.seconds,
        "load_before": list(os.getloadavg()),
        "noise_before": machine.noise(),
    }
    say(machine.words(run["noise_before"]))
    report: dict[str, Any] = {"runs": [run], "order": [case.name for case in CASES]}
    plan = runner.Plan(chosen.rounds, chosen.seconds, chosen.realtime, say)
    cases = chosen_cases(only, chosen.without)
    found = [
        *runner.measure(cases, SUBJECTS, plan),
        *memory.measure(only, chosen.rounds, say),
        *rule_peers.cases(only, chosen.rounds, chosen.seconds, say),
    ]
    report["cases"] = [{**result.as_json(), "run": 0} for result in found]
    rows: dict[str, Sequence[Any]] = {
        "netmap": netmap.measure(only, chosen.rounds, chosen.seconds, say),
        "growth": growth.measure(only, chosen.rounds, say),
    }
    if any(text in rules.NAME for text in only):
        rows["rules"] = rules.measure(say, chosen.classbench)
    if any(text in rule_peers.NAME for text in only):
        rows["rule_peers"] = list(rule_peers.usual(say))
    report |= {name: sections.as_json(of, 0) for name, of in rows.items() if of}
    run["load_after"] = list(os.getloadavg())
    run["noise_after"] = machine.noise()
    return report


def show(report: dict[str, Any], committed: dict[str, Any] | None) -> None:
    """The tables, and what ought to be looked at."""
    out = sys.stdout
    out.write(table.text(table.rows(report["cases"])))
    out.writelines(sections.text(report))
    for run in report["runs"]:
        before, after = (machine.words(run[f"noise_{when}"]) for when in ("before", "after"))
        out.write(f"machine: before: {before}; after: {after}\n")
    out.writelines(f"left out: {n}: {why}\n" for n, why in table.left_out(report["cases"]).items())
    out.writelines(f"below what is wanted: {what}\n" for what in table.missed(report["cases"]))
    out.writelines(f"failed: {what}\n" for what in table.failures(report["cases"]))
    if committed is not None:
        out.writelines(f"REGRESSION: {r}\n" for r in baseline.regressions(report, committed))


def pictures(report: dict[str, Any], directory: Path) -> list[Path]:
    if not plots.available():
        say("no plots: matplotlib is not installed (`make bench-peers` does that)")
        return []
    drawn = plots.draw(report, directory)
    say(f"plots: {', '.join(map(str, drawn))}")
    return drawn


def show_cases() -> None:
    for case in CASES:
        sys.stdout.write(f"{case.name}: {case.ours} beside {', '.join(case.peers)}\n")
    for name, peer in SUBJECTS.items():
        for package in missing(peer.packages):
            sys.stdout.write(f"missing for {name}: {package}\n")


def main(argv: Sequence[str]) -> int:
    chosen = options(argv)
    if chosen.list:
        show_cases()
        return 0
    if chosen.earlier is not None:
        report = json.loads(chosen.earlier.read_text())
    elif os.geteuid() != 0:
        say("network namespaces need root: run this as root")
        return 1
    else:
        report = measure(chosen, argv)
        results.write_json(report, chosen.json)
        say(f"the whole report is in {chosen.json}")
    committed = baseline.read()
    show(report, committed)
    if chosen.earlier is None:
        pictures(report, chosen.json.parent)
    if chosen.write_docs:
        kept = baseline.merged(report, committed)
        results.write_json(kept, baseline.PATH)
        page = ROOT / "docs" / "performance.md"
        docs.write(kept, page, pictures(kept, page.parent / docs.PLOTS))
    return 1 if table.failures(report["cases"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
