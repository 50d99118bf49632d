"""The engine's rules as a dictionary: what fastpath.rule_sets asks for, with the engine's refusals
as errors, and what is published by name instead of by number."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from typing import Any

from fastpath.native import NativeError
from fastpath.native_rules import (
    LogRecord,
    PlacedAttach,
    PlacedPolicer,
    PlacedRule,
    PlacedSet,
    RuleCounter,
    SetSize,
)

Rule = tuple[int, str, Any, bytes]  # priority, id, action, matches


class FakeTables:
    """``calls`` counts rules that came with updates; ``refuse`` lets updates fail."""

    def __init__(self) -> None:
        self.aside: dict[int, dict[int, Rule]] = {}
        self.seen: dict[int, dict[int, Rule]] = {}
        self.sets: tuple[PlacedSet, ...] = ()
        self.attaches: tuple[PlacedAttach, ...] = ()
        self.policers: tuple[PlacedPolicer, ...] = ()
        self.generation = 0
        self.updated = 0
        self.refuse = False

    def update(self, set: int, removed: Sequence[int], added: Sequence[PlacedRule]) -> None:
        if self.refuse and (removed or added):
            raise NativeError(errno.ENOMEM, "", "out of memory")
        rules = dict(self.aside.get(set, {}))
        others = {slot for other, held in self.aside.items() if other != set for slot in held}
        for slot in removed:
            del rules[slot]
        for rule in added:
            assert rule.slot not in others, "the number is another set's"
            rules[rule.slot] = (rule.priority, rule.id, rule.action, rule.matches)
        assert len({rule[1] for rule in rules.values()}) == len(rules), "two rules of one id"
        self.aside[set] = rules
        self.updated += len(added)

    def remove(self, set: int) -> None:
        assert set not in {placed.slot for placed in self.sets}, "the set is in use"
        del self.aside[set]

    def publish(
        self,
        generation: int,
        sets: Sequence[PlacedSet],
        attaches: Sequence[PlacedAttach],
        policers: Sequence[PlacedPolicer],
    ) -> None:
        assert generation > self.generation
        here = {placed.slot for placed in sets}
        numbers = {placed.slot for placed in policers}
        assert {attach.set for attach in attaches} <= here <= self.aside.keys()
        for slot in here:
            for _, _, action, _ in self.aside[slot].values():
                assert action.set in (*here, 0xFFFF), "a jump to nowhere"
                assert action.policer in (*numbers, 0xFFFF), "no such policer"
        self.generation = generation
        self.sets, self.attaches, self.policers = tuple(sets), tuple(attaches), tuple(policers)
        self.seen = {slot: dict(self.aside[slot]) for slot in here}

    def size(self, set: int) -> SetSize:
        rules = self.aside.get(set, {})
        return SetSize(len(rules), len(rules), 1, 0)

    def counter(self, slot: int) -> RuleCounter:
        return RuleCounter(0, 0, 0)

    def clear_counter(self, slot: int) -> None:
        pass

    def policer_counters(self, slot: int) -> tuple[int, int]:
        return 0, 0

    def log(self, most: int) -> tuple[list[LogRecord], int]:
        return [], 0

    def by_name(self, sets: Mapping[int, str]) -> dict[str, Any]:
        """What is published. ``sets``: names by number."""
        rates = {p.slot: (p.frames, p.rate, p.burst) for p in self.policers}
        found: dict[str, Any] = {}
        for placed in self.sets:
            rules = [
                (priority, id, named(action, sets, rates), matches)
                for priority, id, action, matches in self.seen[placed.slot].values()
            ]
            rules.sort(key=lambda rule: rule[:2])
            places = [
                (a.bridge, a.port, a.egress, a.order) for a in self.attaches if a.set == placed.slot
            ]
            found[sets[placed.slot]] = (placed.default_drop, places, rules)
        return found


def named(action: Any, sets: Mapping[int, str], rates: Mapping[int, Any]) -> tuple[Any, ...]:
    """An action without numbers that are given anew in each process."""
    return (
        action.type,
        action.log,
        action.port,
        sets.get(action.set, ""),
        rates.get(action.policer, ""),
    )
