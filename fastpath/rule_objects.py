"""A rule set as the forwarder has it, wanted and in force; and what it is put in force with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fastpath.native_rules import (
    LogRecord,
    PlacedAttach,
    PlacedPolicer,
    PlacedRule,
    PlacedSet,
    RuleCounter,
    SetSize,
)
from fastpath.protocol import Outcome, WireGroup, WireRule, WireRuleSet


class Tables(Protocol):
    """What is asked of the engine: native_rules.RuleTables."""

    def update(self, set: int, removed: Sequence[int], added: Sequence[PlacedRule]) -> None: ...
    def remove(self, set: int) -> None: ...
    def publish(
        self,
        generation: int,
        sets: Sequence[PlacedSet],
        attaches: Sequence[PlacedAttach],
        policers: Sequence[PlacedPolicer],
    ) -> None: ...
    def size(self, set: int) -> SetSize: ...
    def counter(self, slot: int) -> RuleCounter: ...
    def clear_counter(self, slot: int) -> None: ...
    def policer_counters(self, slot: int) -> tuple[int, int]: ...
    def log(self, most: int) -> tuple[list[LogRecord], int]: ...


@dataclass(slots=True)
class LiveRule:
    """A rule that the engine has. ``uses``: keys of what it refers to; ``groups``: as they were."""

    rule: WireRule
    slot: int
    matches: int
    uses: tuple[str, ...]
    groups: tuple[WireGroup, ...]

    @property
    def logs(self) -> bool:
        return self.rule.log or self.rule.action.type == "log"


@dataclass(slots=True)
class RuleSet:
    """One set: ``spec`` and ``wanted`` as they should be, ``in_force`` and ``live`` as they are."""

    name: str
    slot: int | None = None
    spec: WireRuleSet | None = None
    wanted: dict[str, WireRule] = field(default_factory=dict)
    in_force: WireRuleSet | None = None
    live: dict[str, LiveRule] = field(default_factory=dict)
    jumps: Counter[str] = field(default_factory=Counter)  # of live rules, by set
    dirty: dict[str, None] = field(default_factory=dict)  # ids that may differ
    failed: dict[str, Outcome] = field(default_factory=dict)
    refused: Outcome = field(default_factory=Outcome)  # why it is not as wanted
    astray: Outcome = field(default_factory=Outcome)  # where it is to be asked is not there
    kept: bool = False  # a successor has been told what is in force instead
    order: list[str] | None = None  # live ids, as they are asked
