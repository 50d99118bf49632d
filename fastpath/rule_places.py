"""What of the rules is published at once: which sets, asked where, with which policers. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from fastpath import outcomes
from fastpath.native_rules import RULE_NONE, PlacedAttach, PlacedPolicer, PlacedSet
from fastpath.protocol import Outcome, WireAttach, WireRuleSet

CHAIN_MAX = 16  # RULES_CHAIN_MAX of rules.h, which the engine holds against a port's whole stage


@dataclass(frozen=True, slots=True)
class Published:
    """``struct rules_config``."""

    sets: tuple[PlacedSet, ...] = ()
    attaches: tuple[PlacedAttach, ...] = ()
    policers: tuple[PlacedPolicer, ...] = ()

    def and_before(self, before: Published) -> Published:
        """And what was published before, as far as it is not the same."""
        new = {placed.slot for placed in self.sets}
        numbers = {placed.slot for placed in self.policers}
        attaches = dict.fromkeys(self.attaches + before.attaches)
        return Published(
            self.sets + tuple(placed for placed in before.sets if placed.slot not in new),
            tuple(sorted(attaches, key=lambda placed: placed.order)),
            self.policers + tuple(p for p in before.policers if p.slot not in numbers),
        )


@dataclass(frozen=True, slots=True)
class Places:
    """Numbers of the ports and bridges that are wanted."""

    ports: Mapping[str, int]
    bridges: Mapping[str, int]

    def of(
        self, sets: Iterable[tuple[int, WireRuleSet]]
    ) -> tuple[tuple[PlacedAttach, ...], dict[str, Outcome]]:
        """Where the sets of these numbers are asked, in their order: ascending ``order``, bridges
        before ports, by name. By name of the set, what cannot be."""
        wanted = [
            (attach.order, bool(attach.port), spec.name, index, slot, attach)
            for slot, spec in sets
            for index, attach in enumerate(spec.attach)
        ]
        astray: dict[str, Outcome] = {}
        places: dict[PlacedAttach, None] = {}
        asked: Counter[tuple[int, int, bool]] = Counter()
        for _, _, name, index, slot, attach in sorted(wanted, key=lambda item: item[:4]):
            found = self._place(slot, attach, f"attach[{index}]")
            if isinstance(found, PlacedAttach) and found not in places:
                where = (found.bridge, found.port, found.egress)
                asked[where] += 1
                if asked[where] <= CHAIN_MAX:
                    places[found] = None
                    continue
                text = f"at most {CHAIN_MAX} sets are asked at one place"
                found = outcomes.refused("LIMIT", text, f"attach[{index}]")
            if isinstance(found, Outcome):
                astray[name] = found
        return tuple(places), astray

    def _place(self, slot: int, attach: WireAttach, field: str) -> PlacedAttach | Outcome:
        kind, name = ("port", attach.port) if attach.port else ("bridge", attach.bridge)
        number = (self.ports if attach.port else self.bridges).get(name)
        if number is None:
            text = f"{kind} {name} is not there"
            return outcomes.refused("REFERENCE_NOT_FOUND", text, f"{field}.{kind}")
        bridge, port = (RULE_NONE, number) if attach.port else (number, RULE_NONE)
        return PlacedAttach(slot, bridge, port, attach.egress, attach.order)
