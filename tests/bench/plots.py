"""A report as pictures (PNG), for the page and for people who would rather see it: ratios with
their spread, rates, round trips, growth. Needs matplotlib (`make bench-peers` installs it); nothing
else of a run does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.bench import growth, sections

OURS_COLOUR = "#1f5fa8"
PEER_COLOUR = "#b0b0b0"
WANTED_COLOUR = "#c03030"
WIDTH_IN = 9.0
LINE_IN = 0.24  # of a bar or a dot
MARGIN_IN = 1.2
DPI = 100

Case = Mapping[str, Any]


def available() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def draw(report: Mapping[str, Any], directory: Path) -> list[Path]:
    """The pictures that this report has figures for. Same report, same bytes (and matplotlib)."""
    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, picture in PICTURES.items():
        figure = picture(report)
        if figure is not None:
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=DPI, bbox_inches="tight", metadata={"Software": None})
            drawn.append(path)
    return drawn


def _axes(lines: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, MARGIN_IN + LINE_IN * lines))
    return figure, figure.subplots()


def ratios(report: Mapping[str, Any]) -> Any:
    """A dot for each peer of each case, a line for the rounds' spread, a mark: what is wanted."""
    rows = [
        (f"{case['name']} / {peer}", ratio)
        for case in report["cases"]
        for peer, ratio in case["ratios"].items()
        if ratio["median"]
    ]
    if not rows:
        return None
    figure, axes = _axes(len(rows))
    for y, (_, ratio) in enumerate(rows):
        axes.plot([ratio["min"], ratio["max"]], [y, y], color=OURS_COLOUR, linewidth=1.5)
        axes.plot(ratio["median"], y, "o", color=OURS_COLOUR, markersize=4)
        if ratio["target"] is not None:
            axes.plot(ratio["target"], y, "|", color=WANTED_COLOUR, markersize=9)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("ours beside it, above 1: ours is better; red: what is wanted")
    return figure


def _bars(rows: Sequence[tuple[str, float, bool]], label: str) -> Any:
    """(what, value, is it ours)"""
    if not rows:
        return None
    figure, axes = _axes(len(rows))
    colours = [OURS_COLOUR if ours else PEER_COLOUR for _, _, ours in rows]
    axes.barh(range(len(rows)), [value for _, value, _ in rows], color=colours)
    axes.set_yticks(range(len(rows)), [what for what, _, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(label)
    return figure


def _by_subject(cases: Sequence[Case], scale: float) -> list[tuple[str, float, bool]]:
    return [
        (f"{case['name']}: {name}", data["median"] * scale, name == case["ours"])
        for case in cases
        for name, data in case["subjects"].items()
    ]


def rates(report: Mapping[str, Any]) -> Any:
    """Frames between two hosts; memory switching is another order of magnitude."""
    cases = [
        case
        for case in report["cases"]
        if case["unit"] == "frames/s" and case["ours"].startswith("vswitch ")
    ]
    return _bars(_by_subject(cases, 1e-6), "million frames a second that arrive")


def tcp(report: Mapping[str, Any]) -> Any:
    cases = [case for case in report["cases"] if case["unit"] == "Gbit/s"]
    return _bars(_by_subject(cases, 1.0), "Gbit/s that arrive")


def latency(report: Mapping[str, Any]) -> Any:
    """Median, 99th and 99.9th percentile of round trips."""
    rows = [
        (f"{case['name']}: {name}", data, name == case["ours"])
        for case in report["cases"]
        if case["unit"] == "µs"
        for name, data in case["subjects"].items()
        if data["median"]
    ]
    if not rows:
        return None
    figure, axes = _axes(len(rows))
    for y, (_, data, ours) in enumerate(rows):
        detail = data["detail_medians"]
        values = [data["median"], detail["p99_us"], detail["p99_9_us"]]
        colour = OURS_COLOUR if ours else PEER_COLOUR
        axes.plot(values, [y] * len(values), "-", color=colour, linewidth=1.5)
        for value, mark in zip(values, ("o", "s", "D"), strict=True):
            axes.plot(value, y, mark, color=colour, markersize=4)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [label for label, _, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("µs, round trip: median (circle), 99 % (square), 99.9 % (diamond)")
    return figure


def grown(report: Mapping[str, Any]) -> Any:
    """A panel for each curve."""
    curves = growth.curves(sections.rows("growth", report))
    if not curves:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, 2.6 * ((len(curves) + 1) // 2)))
    panels = figure.subplots((len(curves) + 1) // 2, 2, squeeze=False).flatten()
    for panel, (name, points) in zip(panels, curves.items(), strict=False):
        for what in points[0].ns:
            panel.plot([p.x for p in points], [p.ns[what] for p in points], "o-", label=what)
        panel.set_xscale("log")
        panel.set_ylim(bottom=0)
        panel.set_xlabel(name)
        panel.set_ylabel("ns a frame")
        panel.legend(fontsize=7)
    for panel in panels[len(curves) :]:
        panel.remove()
    figure.tight_layout()
    return figure


PICTURES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "ratios": ratios,
    "rates": rates,
    "tcp": tcp,
    "latency": latency,
    "growth": grown,
}
TITLES = {
    "ratios": "Ours beside each peer",
    "rates": "Frames between two hosts",
    "tcp": "TCP",
    "latency": "Round trips",
    "growth": "What a frame costs as the switch grows",
}
