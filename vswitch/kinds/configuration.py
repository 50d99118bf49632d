"""The desired configuration as one immutable value.

Readers take the reference and see one revision for as long as they like; a change makes a new
value that shares all but the maps it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from vswitch.kinds.bridge import BridgeSpec
from vswitch.kinds.fdb import FdbSpec
from vswitch.kinds.group import GroupSpec
from vswitch.kinds.policer import PolicerSpec
from vswitch.kinds.port import PortSpec
from vswitch.kinds.resource import Key, Stored
from vswitch.kinds.ruleset import RuleSetHead
from vswitch.kinds.ruletable import EMPTY_TABLE, RuleTable

_EMPTY: Mapping[str, Any] = MappingProxyType({})

Bridges = Mapping[str, Stored[BridgeSpec]]
Ports = Mapping[str, Stored[PortSpec]]
Fdb = Mapping[str, Mapping[str, Stored[FdbSpec]]]
Changed = Mapping[Key, Stored[Any] | None]


@dataclass(frozen=True, slots=True)
class Configuration:
    """``fdb``: bridge -> MAC -> entry; a bridge without static entries is absent. ``rules``: set ->
    its rules; a set without rules is absent."""

    revision: int = 0
    bridges: Bridges = field(default_factory=lambda: _EMPTY)
    ports: Ports = field(default_factory=lambda: _EMPTY)
    fdb: Fdb = field(default_factory=lambda: _EMPTY)
    groups: Mapping[str, Stored[GroupSpec]] = field(default_factory=lambda: _EMPTY)
    policers: Mapping[str, Stored[PolicerSpec]] = field(default_factory=lambda: _EMPTY)
    rulesets: Mapping[str, Stored[RuleSetHead]] = field(default_factory=lambda: _EMPTY)
    rules: Mapping[str, RuleTable] = field(default_factory=lambda: _EMPTY)

    def get(self, key: Key) -> Stored[Any] | None:
        if key.kind == "rule":
            return self.rules_of(key.parent).get(key.name)
        if key.kind == "fdb":
            return self.fdb.get(key.parent, _EMPTY).get(key.name)
        return self.named(key.kind).get(key.name)

    def named(self, kind: str) -> Mapping[str, Stored[Any]]:
        """All objects of a kind that a name alone tells apart."""
        objects: Mapping[str, Stored[Any]] = getattr(self, _MAPS[kind])
        return objects

    def rules_of(self, ruleset: str) -> RuleTable:
        return self.rules.get(ruleset, EMPTY_TABLE)

    def __iter__(self) -> Iterator[Stored[Any]]:
        """Everything, what is referred to before what refers."""
        yield from self.bridges.values()
        yield from self.ports.values()
        for entries in self.fdb.values():
            yield from entries.values()
        yield from self.groups.values()
        yield from self.policers.values()
        yield from self.rulesets.values()
        for table in self.rules.values():
            yield from table.values()

    def members(self, bridge: str) -> list[str]:
        """Names of the bridge's ports. Their number is bounded: a scan is cheap enough."""
        return sorted(name for name, stored in self.ports.items() if bridge in stored.spec.bridges)

    def entries_of_port(self, port: str) -> list[Key]:
        """Static entries that point to the port: all of them are in its bridges."""
        stored = self.ports.get(port)
        return [
            entry.key
            for bridge in (stored.spec.bridges if stored else ())
            for entry in self.fdb.get(bridge, _EMPTY).values()
            if entry.spec.port == port
        ]

    def monitors_of_port(self, port: str) -> list[Key]:
        """Ports that watch the port."""
        return [
            stored.key for stored in self.ports.values() if stored.spec.backend.monitored() == port
        ]

    def attached_to(self, target: Key) -> list[Key]:
        """Rule sets that are asked at a bridge or a port."""
        return [
            stored.key
            for stored in self.rulesets.values()
            if any(attach.target == target for attach in stored.spec.attach)
        ]

    def sets_naming(self, target: Key) -> list[str]:
        """Rule sets with a rule that names the port, group, policer or set. Looks at sets only."""
        return [name for name, table in self.rules.items() if target in table.references]

    def rules_naming(self, target: Key) -> list[Key]:
        """The rules themselves: looks at all rules of the sets that have one."""
        return [
            stored.key
            for name in self.sets_naming(target)
            for stored in self.rules[name].values()
            if any(key == target for _, key, _ in stored.spec.references())
        ]

    def with_changes(self, revision: int, changes: Changed) -> Configuration:
        """None removes. Copies only the maps that are touched."""
        kinds: dict[str, dict[Key, Stored[Any] | None]] = {}
        for key, new in changes.items():
            kinds.setdefault(key.kind, {})[key] = new
        maps: dict[str, Any] = {
            _MAPS[kind]: _replaced(self.named(kind), part)
            for kind, part in kinds.items()
            if kind in _MAPS
        }
        if "fdb" in kinds:
            maps["fdb"] = self._fdb_with(kinds["fdb"])
        if "rule" in kinds:
            maps["rules"] = self._rules_with(kinds["rule"])
        return replace(self, revision=revision, **maps)

    def _rules_with(self, changes: Changed) -> Mapping[str, RuleTable]:
        parts: dict[str, dict[str, Stored[Any] | None]] = {}
        for key, new in changes.items():
            parts.setdefault(key.parent, {})[key.name] = new
        rules = dict(self.rules)
        for ruleset, part in parts.items():
            table = self.rules_of(ruleset).with_changes(part)
            if table:
                rules[ruleset] = table
            else:
                rules.pop(ruleset, None)
        return rules

    def _fdb_with(self, changes: Changed) -> Fdb:
        bridges = {key.parent for key in changes}
        fdb = dict(self.fdb)
        for bridge in bridges:
            part = {key: new for key, new in changes.items() if key.parent == bridge}
            entries = _replaced(fdb.get(bridge, _EMPTY), part)
            if entries:
                fdb[bridge] = entries
            else:
                fdb.pop(bridge, None)
        return fdb


def _replaced(old: Mapping[str, Stored[Any]], changes: Changed) -> Mapping[str, Stored[Any]]:
    result = dict(old)
    for key, new in changes.items():
        if new is None:
            result.pop(key.name, None)
        else:
            result[key.name] = new
    return result


_MAPS = {
    "bridge": "bridges",
    "port": "ports",
    "group": "groups",
    "policer": "policers",
    "ruleset": "rulesets",
}


def of_objects(revision: int, objects: Iterable[Stored[Any]]) -> Configuration:
    return Configuration().with_changes(revision, {stored.key: stored for stored in objects})
