"""What the forwarder tells about rules: states of sets and policers, counters, the log."""

from __future__ import annotations

from collections.abc import Mapping

from fastpath.apply import Applier
from fastpath.native_rules import ACTION_NAMES, RULE_NONE, LogRecord
from fastpath.outcomes import Outcomes
from fastpath.protocol import (
    PolicerState,
    RuleCounters,
    RuleHits,
    RuleLog,
    RuleLogRow,
    RuleSetState,
)
from fastpath.rule_sets import RuleSets

COUNTERS_MAX = 8192  # rows of an answer
LOG_TAKEN = 256  # records at a time
LOG_KEPT = 1024  # rows that wait to be told
LOG_S = 0.1


def set_states(applier: Applier) -> tuple[RuleSetState, ...]:
    """Every wanted set, in force or not."""
    return tuple(
        _set_state(applier.rules, applier.outcomes, name)
        for name, owner in applier.rules.sets.items()
        if owner.spec is not None
    )


def _set_state(sets: RuleSets, outcomes: Outcomes, name: str) -> RuleSetState:
    owner = sets.sets[name]
    size = None if owner.slot is None else sets.tables.size(owner.slot)
    return RuleSetState(
        name=name,
        outcome=outcomes.get(f"ruleset/{name}"),
        rules=len(owner.live),
        matches=size.matches if size else 0,
        tables=size.tables if size else 0,
        bytes=size.bytes if size else 0,
        failed=dict(owner.failed),
    )


def policer_states(applier: Applier) -> tuple[PolicerState, ...]:
    """Every wanted policer."""
    sets = applier.rules
    states: list[PolicerState] = []
    for name in sets.policers:
        slot = sets.policer_slots.get(name)
        passed, dropped = (0, 0) if slot is None else sets.tables.policer_counters(slot)
        outcome = applier.outcomes.get(f"policer/{name}")
        states.append(PolicerState(name, outcome, passed, dropped))
    return tuple(states)


def counters(applier: Applier, id: int, ruleset: str, cursor: int, limit: int) -> RuleCounters:
    """Of the rules in force, in their order; KeyError when there is no such set."""
    sets = applier.rules
    ids = sets.ordered(ruleset)
    limit = max(1, min(limit, COUNTERS_MAX))
    live = sets.sets[ruleset].live
    rows: list[RuleHits] = []
    cursor = max(0, cursor)
    for name in ids[cursor : cursor + limit]:
        found = sets.tables.counter(live[name].slot)
        rows.append(RuleHits(name, found.frames, found.bytes, found.last_s))
    after = cursor + limit
    return RuleCounters(id, tuple(rows), after if after < len(ids) else 0)


class RuleLogger:
    """Records of frames that rules met, with names for their numbers; a bounded number waits.

    A record is given the name its rule had: before a number is given to another rule, the records
    of the one before are taken out.
    """

    def __init__(self, sets: RuleSets, ports: Mapping[str, int]) -> None:
        self._sets = sets
        self._ports = ports
        self._rows: list[RuleLogRow] = []
        self._lost = 0
        self._logged = False  # records of rules that log no more may be left
        sets.before_reuse = self.drain

    @property
    def wanted(self) -> bool:
        """There may be records."""
        return self._sets.logging or self._logged

    def drain(self) -> None:
        """Take what the workers left."""
        if not self.wanted:
            return
        self._logged = self._sets.logging
        names: dict[int, str] = {}
        while True:
            records, lost = self._sets.tables.log(LOG_TAKEN)
            self._lost += lost
            if records and not names:
                names = {slot: name for name, slot in self._ports.items()}
            for record in records:
                self._add(record, names)
            if len(records) < LOG_TAKEN:
                return

    def _add(self, record: LogRecord, names: Mapping[int, str]) -> None:
        of = self._sets.slots.get(record.rule)
        if of is None or len(self._rows) >= LOG_KEPT:
            self._lost += 1
            return
        ruleset, rule = of
        self._rows.append(
            RuleLogRow(
                time_ns=record.time_ns,
                generation=record.generation,
                frame=record.frame,
                ruleset=ruleset,
                rule=rule,
                action=ACTION_NAMES[record.action],
                in_port=names.get(record.in_port, ""),
                out_port="" if record.out_port == RULE_NONE else names.get(record.out_port, ""),
                frame_len=record.frame_len,
                head=record.head,
            )
        )

    def take(self) -> RuleLog | None:
        """What was drained, for whoever listens."""
        self.drain()
        if not self._rows and not self._lost:
            return None
        told = RuleLog(tuple(self._rows), self._lost)
        self._rows, self._lost = [], 0
        return told
