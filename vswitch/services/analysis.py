"""What an analysis of a rule set finds: portions of the forwarder's put together to pages."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from fastpath.protocol import Analysed, Finding, Traced
from vswitch.view import ForwarderError

PAGE_S = 1.0
"""A page that is not full after so long ends where it is."""

Portion = Callable[[int], Analysed]
"""From a rule's number on."""
Tracer = Callable[[str, bytes, str], Traced]


@dataclass(frozen=True, slots=True)
class Position:
    """Where a page begins: a rule's number, and how many findings from there on were told."""

    rule: int = 0
    told: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """``traced``: what becomes of the witness; None: it cannot come in anywhere."""

    finding: Finding
    traced: Traced | None


@dataclass(frozen=True, slots=True)
class Page:
    """``after`` None: that was all."""

    items: list[Found]
    skipped: int
    after: Position | None


def page(
    portion: Portion, trace: Tracer, kinds: frozenset[str] | None, at: Position, limit: int
) -> Page:
    """At most ``limit`` findings of these kinds (None: all)."""
    deadline = time.monotonic() + PAGE_S
    items: list[Found] = []
    skipped = 0
    while True:
        answer = portion(at.rule)
        for told, finding in enumerate(answer.findings[at.told :], at.told):
            if len(items) == limit:
                return Page(items, skipped, Position(at.rule, told))
            if kinds is None or finding.kind in kinds:
                items.append(Found(finding, _traced(finding, trace)))
        skipped += answer.skipped
        if not answer.cursor:
            return Page(items, skipped, None)
        at = Position(answer.cursor)
        if time.monotonic() >= deadline:
            return Page(items, skipped, at)


def _traced(finding: Finding, trace: Tracer) -> Traced | None:
    if not finding.in_port:
        return None
    try:
        return trace(finding.in_port, finding.witness, finding.state)
    except ForwarderError as error:
        if error.refused:  # the port has gone meanwhile
            return None
        raise
