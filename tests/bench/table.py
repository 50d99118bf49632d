"""A report as tables: one row for ours in a case and one for each peer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

HEADER = ["case", "subject", "figure", "ratio (min to max)", "wanted", "CPU (switch)", "notes"]


def rows(cases: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header first; `ratio` is how much better ours is than the subject of the row."""
    return [HEADER, *(row for case in cases for row in _case_rows(case))]


def _case_rows(case: Mapping[str, Any]) -> Iterator[list[str]]:
    if case["error"] is not None:
        yield [case["name"], "", "", "failed", "", "", case["error"]]
        return
    for name, data in case["subjects"].items():
        detail = data["detail_medians"]
        ratio = case["ratios"].get(name)
        wanted = limits(case) if name == case["ours"] else _target(ratio)
        yield [
            *(case["name"], name, number(data["median"], case["unit"])),
            *(_ratio(ratio), wanted, _cpu(detail), _notes(detail)),
        ]
    for name, why in case["left_out"].items():
        yield [case["name"], name, "", "left out", "", "", why]


def number(value: float, unit: str) -> str:
    if unit == "frames/s":
        return f"{value / 1e6:.3f} M/s" if value < 1e7 else f"{value / 1e6:.1f} M/s"
    return f"{value:.2f} {unit}" if unit.startswith("%") else f"{value:.1f} {unit}"


def _ratio(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None:
        return ""
    if ratio["median"] is None:
        return "it reached nothing"
    return f"{ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})"


def _target(ratio: Mapping[str, Any] | None) -> str:
    if ratio is None or ratio["target"] is None:
        return ""
    return f">= {ratio['target']:.2f} {'met' if ratio['met'] else 'MISSED'}"


def limits(case: Mapping[str, Any]) -> str:
    """What is wanted of ours alone."""
    names = {"value": case["unit"], "p99_us": "p99"}
    return ", ".join(
        f"{names.get(name, name)} <= {limit['most']:g} {'met' if limit['met'] else 'MISSED'}"
        for name, limit in case["limits"].items()
    )


def _cpu(detail: Mapping[str, float]) -> str:
    """Processor time by the case's own measure; the switch's process in brackets."""
    for unit, label in (("frame", "ns/frame"), ("kb", "ns/KB")):
        if f"system_ns_per_{unit}" in detail:
            own = detail[f"switch_ns_per_{unit}"]
            text = f"{detail[f'system_ns_per_{unit}']:.0f}"
            return f"{text} ({own:.0f}) {label}" if own else f"{text} {label}"
    if "ns_per_frame" in detail:
        return f"{detail['ns_per_frame']:.1f} ns/frame"
    if "switch_ns_per_round" in detail:
        return f"({detail['switch_ns_per_round'] / 1000:.0f}) µs/round"
    return ""


def _notes(detail: Mapping[str, float]) -> str:
    notes = []
    if "retransmits" in detail:
        notes.append(f"retransmits {detail['retransmits']:.0f}")
    if "p99_us" in detail:
        notes.append(f"p99 {detail['p99_us']:.0f} µs, p99.9 {detail['p99_9_us']:.0f} µs")
    if "whole_ns" in detail:
        notes.append(
            f"{detail['whole_ns']:.0f} ns with receiving and sending, testpmd "
            f"{detail['around_ns']:.0f}; {detail['emc_percent']:.0f} % in its exact-match cache, "
            f"{detail['upcalls']:.0f} upcalls"
        )
    if "without_rules_ns" in detail:
        notes.append(f"everything included; {detail['without_rules_ns']:.1f} ns without rules")
    if "offered_frames_per_s" in detail:
        notes.append(f"offered {detail['offered_frames_per_s'] / 1e6:.2f} M/s")
    for name in ("duplicates", "reordered"):
        if detail.get(name):
            notes.append(f"{name} {detail[name]:.0f}")
    return ", ".join(notes)


def missed(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is below what is wanted, in words."""
    found = []
    for case in cases:
        name = case["name"]
        found += [
            f"{name} beside {peer}: {ratio['median'] or 0:.2f}, wanted {ratio['target']:.2f}"
            for peer, ratio in case["ratios"].items()
            if ratio["met"] is False
        ]
        found += [
            f"{name}: {what} {limit['found']:.3g}, wanted {limit['most']:g} at most"
            for what, limit in case["limits"].items()
            if not limit["met"]
        ]
    return found


def left_out(cases: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """By subject, why it has no figures in at least one case."""
    return {name: why for case in cases for name, why in case["left_out"].items()}


def failures(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cases and subjects that should have been measured and could not."""
    found = [f"{case['name']}: {case['error']}" for case in cases if case["error"] is not None]
    for case in cases:
        found += [f"{case['name']}, {name}: {case['left_out'][name]}" for name in case["failed"]]
    return found


def text(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join(lines) + "\n"


def markdown(table: Sequence[Sequence[str]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body]) + "\n"
