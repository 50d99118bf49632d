"""Puts the figures of a report into docs/performance.md, between two marks; the text around them
is written by people and stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import machine, plots, sections, table

BEGIN = "<!-- figures: begin (python -m tests.bench --write-docs) -->"
END = "<!-- figures: end -->"


PLOTS = "plots"  # beside the page


def figures(report: dict[str, Any], pictures: Sequence[Path] = ()) -> str:
    """The generated part: on what and how it was measured, and the tables."""
    cases = report["cases"]
    lines = [
        BEGIN,
        *_runs(report["runs"]),
        "",
        "`ratio` is how much better ours is than the subject of the row, the median of the "
        "rounds' ratios. CPU is everything that took part, in brackets the switch's own process.",
        "",
        *(f"![{plots.TITLES[path.stem]}]({PLOTS}/{path.name})\n" for path in pictures),
        table.markdown(_numbered(table.rows(cases), cases, len(report["runs"]))),
    ]
    missed = table.missed(cases)
    if missed:
        lines += ["Below what is wanted:", "", *(f"* {what}" for what in missed), ""]
    lines += [f"Left out: {name} ({why})." for name, why in table.left_out(cases).items()]
    lines += _forwarding(report)
    for section in sections.SECTIONS:
        lines += sections.markdown(section, report)
    lines.append(END)
    return "\n".join(lines)


def _runs(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What each run was measured on, the oldest first."""
    for place, run in enumerate(runs):
        m = run["machine"]
        yield (
            f"{place + 1}. {run['date']}, {m['cpu']}, {m['cpus']} CPUs, {m['memory_gib']} GiB, "
            f"{m['system']}, Linux {m['kernel']}. `{run['command']}`: {run['rounds']} rounds of "
            f"{run['seconds']:g} s. Load average before {run['load_before'][0]:.1f}, after "
            f"{run['load_after'][0]:.1f}; before: {machine.words(run['noise_before'])}, after: "
            f"{machine.words(run['noise_after'])}."
        )


def _numbered(
    rows: Sequence[Sequence[str]], cases: Sequence[Mapping[str, Any]], runs: int
) -> list[list[str]]:
    """With the number of the run, where there is more than one."""
    if runs == 1:
        return [list(row) for row in rows]
    of = {case["name"]: str(case["run"] + 1) for case in cases}
    head, *body = rows
    return [["run", *head], *([of[row[0]], *row] for row in body)]


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


def write(report: dict[str, Any], path: Path, pictures: Sequence[Path] = ()) -> None:
    """Replaces the generated part of the page; ValueError when it has no marks."""
    text = path.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} does not hold {BEGIN} and {END}")
    path.write_text(before + figures(report, pictures) + after)
