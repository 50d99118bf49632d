"""The rules of one set as an immutable map: a change shares all but what it touches.

A plain dict would be copied whole for each rule that changes, 0.1 ms for 10,000 rules and more
than 2 ms for 131,072. Here the rules lie in shards by the hash of their id, so that a change
copies one shard and the list of shards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vswitch.kinds.resource import Key, Stored
from vswitch.kinds.rule import RuleSpec

SHARDS = 512
Rule = Stored[RuleSpec]
_Shard = dict[str, Rule]


class RuleTable(Mapping[str, Rule]):
    """``references``: what the rules name, and how many of them."""

    __slots__ = ("_count", "_ordered", "_shards", "references")

    def __init__(
        self, shards: tuple[_Shard, ...], count: int, references: Mapping[Key, int]
    ) -> None:
        self._shards = shards
        self._count = count
        self.references = references
        self._ordered: tuple[Rule, ...] | None = None

    def __getitem__(self, id: str) -> Rule:
        return self._shards[hash(id) % SHARDS][id]

    def get(  # type: ignore[override]
        self, id: str, default: Rule | None = None
    ) -> Rule | None:
        """Nearly all of a set that is put anew are not there, and an exception each is slow."""
        return self._shards[hash(id) % SHARDS].get(id, default)

    def __iter__(self) -> Iterator[str]:
        for shard in self._shards:
            yield from shard

    def __len__(self) -> int:
        return self._count

    def ordered(self) -> tuple[Rule, ...]:
        """In the order in which rules are asked. Sorted when first wanted."""
        if self._ordered is None:
            self._ordered = tuple(
                sorted(
                    (rule for shard in self._shards for rule in shard.values()),
                    key=lambda rule: (rule.spec.priority, rule.key.name),
                )
            )
        return self._ordered

    def with_changes(self, changes: Mapping[str, Rule | None]) -> RuleTable:
        """None removes."""
        shards = list(self._shards)
        own: set[int] = set()
        count = self._count
        references: dict[Key, int] | None = None
        for id, new in changes.items():
            number = hash(id) % SHARDS
            if number not in own:
                own.add(number)
                shards[number] = dict(shards[number])
            old = shards[number].pop(id, None)
            if new is not None:
                shards[number][id] = new
            count += (new is not None) - (old is not None)
            for rule, step in ((old, -1), (new, 1)):
                for _, key, _ in rule.spec.references() if rule is not None else ():
                    if references is None:
                        references = dict(self.references)
                    references[key] = references.get(key, 0) + step
                    if not references[key]:
                        del references[key]
        return RuleTable(
            tuple(shards), count, self.references if references is None else references
        )


EMPTY_TABLE = RuleTable(({},) * SHARDS, 0, {})
