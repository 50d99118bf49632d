"""What a report holds besides cases: tables of other shapes, each a list of rows of its own module.

In a report a section is {"run": number of its run, "rows": [...]}.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tests.bench import growth, netmap, rule_peers, rules


@dataclass(frozen=True)
class Section:
    """``row`` makes a row from its dictionary; ``text`` and ``markdown`` take rows."""

    row: Callable[..., Any]
    text: Callable[[Sequence[Any]], Iterable[str]]
    markdown: Callable[[Sequence[Any]], list[str]]


def _nothing(_: Sequence[Any]) -> list[str]:
    return []


SECTIONS: dict[str, Section] = {
    "rules": Section(rules.Row, rules.text, _nothing),
    "rule_peers": Section(rule_peers.Row, rule_peers.text, rule_peers.markdown),
    "growth": Section(growth.Point, growth.text, growth.markdown),
    "netmap": Section(netmap.Row, netmap.text, netmap.markdown),
}


def as_json(rows: Iterable[Any], run: int) -> dict[str, Any]:
    return {"run": run, "rows": [asdict(row) for row in rows]}


def rows(name: str, report: Mapping[str, Any]) -> list[Any]:
    """Of one section; none where nothing was measured."""
    return [SECTIONS[name].row(**row) for row in report.get(name, {"rows": ()})["rows"]]


def text(report: Mapping[str, Any]) -> Iterator[str]:
    for name, section in SECTIONS.items():
        yield from section.text(rows(name, report))


def markdown(name: str, report: Mapping[str, Any]) -> list[str]:
    """The table of docs/performance.md; nothing where nothing was measured."""
    found = rows(name, report)
    if not found:
        return []
    of = [f"(Run {report[name]['run'] + 1}.)", ""] if len(report["runs"]) > 1 else []
    lines = SECTIONS[name].markdown(found)
    return [*lines, *of] if lines else []
