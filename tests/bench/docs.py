"""Puts the figures of a report into docs/performance.md, between two marks; the text around them
is written by people and stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.bench import netmap, results

BEGIN = "<!-- figures: begin (python -m tests.bench --write-docs) -->"
END = "<!-- figures: end -->"


def figures(report: dict[str, Any]) -> str:
    """The generated part: what it was measured on, how, and the table."""
    m = report["machine"]
    failed = [c["name"] for c in report["cases"] if c["error"] is not None]
    missed = [c["name"] for c in report["cases"] if c.get("target_met") is False]
    lines = [
        BEGIN,
        f"{m['cpu']}, {m['cpus']} CPUs, {m['memory_gib']} GiB, {m['system']}, "
        f"Linux {m['kernel']}; {report['date']}.",
        "",
        f"`{report['command']}`: {report['rounds']} rounds of {report['seconds']:g} s. Load "
        f"average before {m['load_before'][0]:.1f}, after {m['load_after'][0]:.1f}.",
        "",
        results.markdown_table(results.rows(report)),
    ]
    if missed:
        lines += [f"Below what is wanted: {'; '.join(missed)}.", ""]
    if failed:
        lines += [f"Could not be measured: {'; '.join(failed)}.", ""]
    lines += _forwarding(report)
    lines += netmap.markdown([netmap.Row(**row) for row in report.get("netmap", ())])
    lines.append(END)
    return "\n".join(lines)


def _forwarding(report: dict[str, Any]) -> list[str]:
    """What became of the frames that were offered, for the cases that offer at full speed."""
    rows = []
    for case in report["cases"]:
        for subject, data in case["subjects"].items():
            detail = data["detail_medians"]
            if "offered_frames_per_s" not in detail:
                continue
            drops = ", ".join(
                f"{name.removeprefix('drops_')} {count:,.0f}"
                for name, count in detail.items()
                if name.startswith("drops_")
            )
            rows.append(
                f"| {case['name']} | {subject} | {detail['offered_frames_per_s'] / 1e6:.2f} "
                f"| {data['median'] / 1e6:.2f} | {detail['lost']:,.0f} "
                f"| {detail['duplicates']:.0f} | {detail['reordered']:.0f} | {drops} "
                f"| {detail['receiver_drops']:,.0f} |"
            )
    if not rows:
        return []
    return [
        "Frames offered at full speed, medians of a round. What was lost was counted by the switch "
        "as `dropped` says; `kernel_ring` is the kernel's receive ring or a tunnel's socket, which "
        "overflows when the generator is faster than the switch, and `tap_queue` the queue of a "
        "TAP's interface, which does so for the same reason. Late frames arrived while the "
        "receiving program waited for a processor: they count as arrived.",
        "",
        "| case | subject | offered M/s | arrived M/s | lost | doubled | reordered | dropped "
        "| late |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def write(report: dict[str, Any], path: Path) -> None:
    """Replaces the generated part of the page; ValueError when it has no marks."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} does not hold {BEGIN} and {END}")
    path.write_text(before + figures(report) + after)
