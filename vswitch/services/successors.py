"""What an object becomes by a write, and a rule set with its rules. Pure but for clock and uids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vswitch.kinds import Configuration, Key, Stored
from vswitch.kinds.rule import RuleEntry, RuleSpec
from vswitch.kinds.ruleset import RuleSetHead, spec_of
from vswitch.problems import not_found
from vswitch.services import filterrules
from vswitch.services.filterrules import ImportRequest
from vswitch.values import now, uuid7


@dataclass(frozen=True, slots=True)
class Change:
    """``pointers``: where in the request the specs of some objects are."""

    objects: Mapping[Key, Stored[Any] | None]
    pointers: Mapping[Key, str] = field(default_factory=dict)


def successor(
    before: Configuration, key: Key, spec: Any, labels: Mapping[str, str], description: str
) -> Stored[Any]:
    """The old object itself where nothing changes."""
    old = before.get(key)
    at = now()
    if old is None:
        return Stored(
            key=key,
            uid=uuid7(),
            labels=labels,
            description=description,
            generation=1,
            revision=before.revision + 1,
            spec=spec,
            created_at=at,
            updated_at=at,
        )
    if (old.spec, old.labels, old.description) == (spec, labels, description):
        return old
    return replace(
        old,
        labels=labels,
        description=description,
        generation=old.generation + 1,
        revision=before.revision + 1,
        spec=spec,
        updated_at=at,
    )


def counted(before: Configuration, ruleset: Stored[Any]) -> Stored[Any]:
    """A set one of whose rules changes: its generation grows."""
    return replace(
        ruleset,
        generation=ruleset.generation + 1,
        revision=before.revision + 1,
        updated_at=now(),
    )


def of_rule(before: Configuration, key: Key, write: Any) -> Change:
    """Looks at nothing but the rule and its set's head."""
    ruleset = before.rulesets.get(key.parent)
    if ruleset is None:
        raise not_found("RuleSet", key.parent)
    new = successor(before, key, write.spec, write.labels, write.description)
    if new is before.get(key):
        return Change({})
    return Change({key: new, ruleset.key: counted(before, ruleset)})


def of_ruleset(before: Configuration, key: Key, write: Any, *, keep_rules: bool) -> Change:
    """The set and all its rules."""
    old = before.rulesets.get(key.name)
    head = successor(before, key, write.spec.head(), write.labels, write.description)
    objects: dict[Key, Stored[Any] | None] = {}
    pointers: dict[Key, str] = {}
    if not keep_rules:
        objects, pointers = _rules(before, key.name, write.spec.rules)
    if objects and head is old:
        assert old is not None
        head = counted(before, old)
    if head is old:
        return Change({})
    return Change({key: head, **objects}, pointers)


IMPORT_LABEL = "imported-as"
"""On sets that were imported: under which name, so that the next import replaces them."""


def of_import(before: Configuration, name: str, request: ImportRequest) -> Change:
    """All sets of the table; those that an earlier import made and this one does not, go."""
    objects: dict[Key, Stored[Any] | None] = {}
    pointers: dict[Key, str] = {}
    names = filterrules.names_of(name, request.rules)
    for direction, ruleset in names.items():
        key = Key("ruleset", ruleset)
        old = before.rulesets.get(ruleset)
        numbered = filterrules.entries(request.rules, direction)
        attach = filterrules.places(request, direction)
        if attach is None:
            attach = old.spec.attach if old else ()
        head = RuleSetHead(default="allow", attach=attach)
        labels = {**(old.labels if old else {}), IMPORT_LABEL: name}
        new = successor(before, key, head, labels, old.description if old else "")
        changed, _ = _rules(before, ruleset, [entry for _, entry in numbered])
        objects |= changed
        if new is old and changed:
            new = counted(before, new)
        if new is not old:
            objects[key] = new
        pointers[key] = ""
        pointers |= {Key("rule", entry.id, ruleset): f"/rules/{i}" for i, entry in numbered}
    for stored in before.rulesets.values():
        if stored.labels.get(IMPORT_LABEL) == name and stored.key.name not in names.values():
            objects[stored.key] = None
            objects |= {rule.key: None for rule in before.rules_of(stored.key.name).values()}
    return Change(objects, pointers)


def _rules(
    before: Configuration, ruleset: str, entries: Sequence[RuleEntry]
) -> tuple[dict[Key, Stored[Any] | None], dict[Key, str]]:
    table = before.rules_of(ruleset)
    objects: dict[Key, Stored[Any] | None] = {}
    pointers: dict[Key, str] = {}
    for index, entry in enumerate(entries):
        key = Key("rule", entry.id, ruleset)
        old: Stored[RuleSpec] | None = table.get(entry.id)
        labels, description = (old.labels, old.description) if old else ({}, "")
        new = successor(before, key, spec_of(entry), labels, description)
        pointers[key] = f"/spec/rules/{index}"
        if new is not old:
            objects[key] = new
    kept = {entry.id for entry in entries}
    objects |= {rule.key: None for id, rule in table.items() if id not in kept}
    return objects, pointers
