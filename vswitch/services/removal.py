"""What goes with an object that is deleted, and what stays without it. Pure but for the clock."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vswitch.kinds import Configuration, Key, Stored
from vswitch.services.successors import counted


def gone_with(before: Configuration, key: Key, *, cascade: bool) -> dict[Key, None]:
    """The object and its parts; with ``cascade`` what refers to any of it, too.

    A set that is attached to what goes stays: its attachment is what refers.
    """
    gone: dict[Key, None] = {key: None}
    left = [key]
    while left:
        target = left.pop()
        found = _parts(before, target)
        if cascade:
            found += _referrers(before, target)
        for item in found:
            if item not in gone:
                gone[item] = None
                left.append(item)
    return gone


def _parts(before: Configuration, key: Key) -> list[Key]:
    """Static entries are part of their bridge, rules of their set."""
    if key.kind == "bridge":
        return [entry.key for entry in before.fdb.get(key.name, {}).values()]
    if key.kind == "ruleset":
        return [rule.key for rule in before.rules_of(key.name).values()]
    return []


def _referrers(before: Configuration, key: Key) -> list[Key]:
    if key.kind == "bridge":
        return [Key("port", name) for name in before.members(key.name)]
    if key.kind == "port":
        found = before.entries_of_port(key.name) + before.monitors_of_port(key.name)
        return found + before.rules_naming(key)
    return before.rules_naming(key) if key.kind in ("group", "policer", "ruleset") else []


def kept_without(
    before: Configuration, gone: dict[Key, None], *, cascade: bool
) -> dict[Key, Stored[Any]]:
    """Sets that lose rules, or with ``cascade`` places, and stay."""
    kept: dict[Key, Stored[Any]] = {}
    losing = {Key("ruleset", key.parent) for key in gone if key.kind == "rule"}
    for stored in before.rulesets.values():
        attach = stored.spec.attach
        if cascade:
            attach = tuple(one for one in attach if one.target not in gone)
        if stored.key in gone or (stored.key not in losing and attach == stored.spec.attach):
            continue
        spec = stored.spec.model_copy(update={"attach": attach})
        kept[stored.key] = replace(counted(before, stored), spec=spec)
    return kept
