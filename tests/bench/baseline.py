"""The figures that are committed (docs/performance.json), and a run beside them.

Ratios are compared, not rates: a ratio that is more than a seventh lower than it was is reported,
whatever machine either was measured on. A run that measured some of the cases replaces those in
the committed figures; every case says which run it is of.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.probes import ROOT

PATH = ROOT / "docs" / "performance.json"
TOLERANCE = 0.15
# What a report holds besides its cases (tests.bench.sections).
SECTIONS = ("rules", "rule_peers", "growth", "netmap")


@dataclass(frozen=True)
class Regression:
    """``beyond_spread``: no round of this run reached the worst of the committed one."""

    case: str
    peer: str
    was: float
    now: float
    beyond_spread: bool

    def __str__(self) -> str:
        change = 100 * (self.now / self.was - 1)
        how = "beyond both spreads" if self.beyond_spread else "the spreads of both runs overlap"
        return (
            f"{self.case} beside {self.peer}: {self.was:.2f} before, {self.now:.2f} now "
            f"({change:+.0f} %; {how})"
        )


def read(path: Path = PATH) -> dict[str, Any] | None:
    return json.loads(path.read_text()) if path.exists() else None


def regressions(report: Mapping[str, Any], committed: Mapping[str, Any]) -> Iterator[Regression]:
    before = {case["name"]: case for case in committed["cases"]}
    for case in report["cases"]:
        old = before.get(case["name"], {"ratios": {}})["ratios"]
        for peer, ratio in case["ratios"].items():
            was = old.get(peer, {"median": None})
            if was["median"] is None or ratio["median"] is None:
                continue
            if ratio["median"] < (1 - TOLERANCE) * was["median"]:
                yield Regression(
                    *(case["name"], peer, was["median"], ratio["median"]),
                    beyond_spread=ratio["max"] < was["min"],
                )


def slim(report: Mapping[str, Any]) -> dict[str, Any]:
    """Without the single rounds."""
    kept: dict[str, Any] = copy.deepcopy(dict(report))
    for case in kept["cases"]:
        for data in case["subjects"].values():
            data.pop("rounds", None)
    return kept


def merged(report: Mapping[str, Any], committed: Mapping[str, Any] | None) -> dict[str, Any]:
    """The committed figures with everything that this run measured in place of what there was.
    Runs are numbered by age, and those that nothing is left of are forgotten."""
    new = slim(report)
    if committed is None:
        return new
    runs = [*committed["runs"], *new["runs"]]
    shift = len(committed["runs"])
    cases = {case["name"]: case for case in committed["cases"]}
    for case in new["cases"]:
        cases[case["name"]] = {**case, "run": case["run"] + shift}
    sections = {name: committed[name] for name in SECTIONS if name in committed}
    for name in SECTIONS:
        if name in new:
            sections[name] = {**new[name], "run": new[name]["run"] + shift}
    used = sorted({part["run"] for part in (*cases.values(), *sections.values())})
    for part in (*cases.values(), *sections.values()):
        part["run"] = used.index(part["run"])
    order = {name: place for place, name in enumerate(new.get("order", ()))}
    return {
        "runs": [runs[number] for number in used],
        "cases": sorted(cases.values(), key=lambda case: order.get(case["name"], len(order))),
        **sections,
    }
