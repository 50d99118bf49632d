"""What a benchmark run found, and how it is written down: table, JSON, docs/performance.md."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.cases import Sample


@dataclass(frozen=True)
class Result:
    """One case. `samples`: by subject, one for each round; round i of one subject was measured
    right before or after round i of the others."""

    name: str
    unit: str
    ours: str
    peer: str
    target: float | None
    higher_is_better: bool
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    error: str | None = None

    def ratios(self) -> list[float]:
        """Round by round, above 1 where ours is better."""
        pairs = zip(self.samples[self.ours], self.samples[self.peer], strict=True)
        if self.higher_is_better:
            return [ours.value / peer.value for ours, peer in pairs]
        return [peer.value / ours.value for ours, peer in pairs]

    def as_json(self) -> dict[str, Any]:
        report: dict[str, Any] = {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "higher_is_better": self.higher_is_better,
            "target": self.target,
            "error": self.error,
            "subjects": {
                subject: {
                    "median": statistics.median(s.value for s in samples),
                    "min": min(s.value for s in samples),
                    "max": max(s.value for s in samples),
                    "detail_medians": _detail_medians(samples),
                    "rounds": [asdict(s) for s in samples],
                }
                for subject, samples in self.samples.items()
                if samples
            },
        }
        if self.error is None:
            ratios = self.ratios()
            ratio = statistics.median(ratios)
            report["ratio"] = {"median": ratio, "min": min(ratios), "max": max(ratios)}
            report["target_met"] = None if self.target is None else ratio >= self.target
        return report


def _detail_medians(samples: Sequence[Sample]) -> dict[str, float]:
    names = {name for sample in samples for name in sample.detail}
    return {
        name: statistics.median(sample.detail.get(name, 0) for sample in samples)
        for name in sorted(names)
    }


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    release = "unknown"
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("PRETTY_NAME="):
            release = line.partition("=")[2].strip('"')
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model,
        "cpus": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
        "system": release,
        "load_before": list(os.getloadavg()),
    }


def _number(value: float, unit: str) -> str:
    if unit == "frames/s":
        return f"{value / 1e6:.3f} M/s" if value < 1e7 else f"{value / 1e6:.1f} M/s"
    return f"{value:.1f} {unit}"


def _cpu(detail: dict[str, float]) -> str:
    """Processor time by the case's own measure; the switch's process in brackets."""
    for unit, label in (("frame", "ns/frame"), ("kb", "ns/KB")):
        if f"system_ns_per_{unit}" in detail:
            own = detail[f"switch_ns_per_{unit}"]
            text = f"{detail[f'system_ns_per_{unit}']:.0f}"
            return f"{text} ({own:.0f}) {label}" if own else f"{text} {label}"
    if "ns_per_frame" in detail:
        return f"{detail['ns_per_frame']:.1f} ns/frame"
    if "p99_us" in detail:
        return f"p99 {detail['p99_us']:.0f} µs"
    return ""


def rows(report: dict[str, Any]) -> list[list[str]]:
    """The table, header first, from as_json() reports."""
    table = [
        ["case", "ours", "peer", "ratio (min to max)", "wanted", "CPU ours", "CPU peer", "notes"]
    ]
    for case in report["cases"]:
        if case["error"] is not None:
            table.append([case["name"], "", "", "failed", "", "", "", case["error"]])
            continue
        ours = case["subjects"][case["ours"]]
        peer = case["subjects"][case["peer"]]
        ratio = case["ratio"]
        target = case["target"]
        verdict = ""
        if target is not None:
            verdict = f">= {target:.2f} {'met' if case['target_met'] else 'MISSED'}"
        table.append(
            [
                case["name"],
                _number(ours["median"], case["unit"]),
                _number(peer["median"], case["unit"]),
                f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})",
                verdict,
                _cpu(ours["detail_medians"]),
                _cpu(peer["detail_medians"]),
                _notes(ours["detail_medians"], peer["detail_medians"]),
            ]
        )
    return table


def _notes(ours: dict[str, float], peer: dict[str, float]) -> str:
    notes = []
    if "retransmits" in ours:
        notes.append(f"retransmits {ours['retransmits']:.0f} / {peer['retransmits']:.0f}")
    if "offered_frames_per_s" in ours:
        offered = ours["offered_frames_per_s"]
        notes.append(f"offered {offered / 1e6:.2f} M/s")
    for name in ("duplicates", "reordered"):
        if ours.get(name):
            notes.append(f"{name} {ours[name]:.0f}")
    return ", ".join(notes)


def text_table(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines) + "\n"


def markdown_table(table: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body]) + "\n"


def write_json(report: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
