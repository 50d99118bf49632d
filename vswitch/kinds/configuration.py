"""The desired configuration as one immutable value.

Readers take the reference and see one revision for as long as they like; a change makes a new
value that shares all but the maps it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from vswitch.kinds.bridge import BridgeSpec
from vswitch.kinds.fdb import FdbSpec
from vswitch.kinds.port import PortSpec
from vswitch.kinds.resource import Key, Stored

_EMPTY: Mapping[str, Any] = MappingProxyType({})

Bridges = Mapping[str, Stored[BridgeSpec]]
Ports = Mapping[str, Stored[PortSpec]]
Fdb = Mapping[str, Mapping[str, Stored[FdbSpec]]]


@dataclass(frozen=True, slots=True)
class Configuration:
    """``fdb``: bridge -> MAC -> entry; a bridge without static entries is absent."""

    revision: int = 0
    bridges: Bridges = field(default_factory=lambda: _EMPTY)
    ports: Ports = field(default_factory=lambda: _EMPTY)
    fdb: Fdb = field(default_factory=lambda: _EMPTY)

    def get(self, key: Key) -> Stored[Any] | None:
        if key.kind == "bridge":
            return self.bridges.get(key.name)
        if key.kind == "port":
            return self.ports.get(key.name)
        return self.fdb.get(key.bridge, _EMPTY).get(key.name)

    def __iter__(self) -> Iterator[Stored[Any]]:
        """Everything, what is referred to before what refers."""
        yield from self.bridges.values()
        yield from self.ports.values()
        for entries in self.fdb.values():
            yield from entries.values()

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

    def with_changes(
        self, revision: int, changes: Mapping[Key, Stored[Any] | None]
    ) -> Configuration:
        """None removes. Copies only the maps that are touched."""
        return Configuration(
            revision,
            _replaced(self.bridges, changes, "bridge"),
            _replaced(self.ports, changes, "port"),
            self._fdb_with(changes),
        )

    def _fdb_with(self, changes: Mapping[Key, Stored[Any] | None]) -> Fdb:
        bridges = {key.bridge for key in changes if key.kind == "fdb"}
        if not bridges:
            return self.fdb
        fdb = dict(self.fdb)
        for bridge in bridges:
            part = {key: new for key, new in changes.items() if key.bridge == bridge}
            entries = _replaced(fdb.get(bridge, _EMPTY), part, "fdb")
            if entries:
                fdb[bridge] = entries
            else:
                fdb.pop(bridge, None)
        return fdb


def _replaced(
    old: Mapping[str, Stored[Any]], changes: Mapping[Key, Stored[Any] | None], kind: str
) -> Mapping[str, Stored[Any]]:
    touched = {key.name: new for key, new in changes.items() if key.kind == kind}
    if not touched:
        return old
    result = dict(old)
    for name, new in touched.items():
        if new is None:
            result.pop(name, None)
        else:
            result[name] = new
    return result


def of_objects(revision: int, objects: Iterable[Stored[Any]]) -> Configuration:
    return Configuration().with_changes(revision, {stored.key: stored for stored in objects})
