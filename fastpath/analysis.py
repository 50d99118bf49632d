"""Analysis of rule sets as the wire tells it: names for numbers, a bounded portion at a time."""

from __future__ import annotations

from fastpath.apply import Applier
from fastpath.native_analyse import analyse as native_analyse
from fastpath.native_rules import STATES
from fastpath.protocol import Analyse, Analysed, Finding

PORTION_NS = 25_000_000  # and at most one rule's time beyond it
FINDINGS_MAX = 256

_STATE_NAMES = {bit: name for name, bit in STATES.items()}


def analyse(applier: Applier, request: Analyse) -> Analysed:
    """From the rule at the cursor on; KeyError: the set is not in force."""
    owner = applier.rules.sets.get(request.ruleset)
    if owner is None or owner.slot is None:
        raise KeyError(request.ruleset)
    rows, cursor, skipped = native_analyse(
        applier.engine, owner.slot, request.cursor, PORTION_NS, FINDINGS_MAX
    )
    ports = {slot: name for name, slot in applier.port_slots.items()}
    findings = tuple(
        Finding(
            kind=row.kind,
            rule=row.rule,
            by=row.by,
            witness=row.frame,
            in_port="" if row.in_port is None else ports.get(row.in_port, ""),
            state=_STATE_NAMES.get(row.state, ""),
        )
        for row in rows
    )
    return Analysed(request.id, findings, cursor, skipped)
