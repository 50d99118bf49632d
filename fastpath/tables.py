"""Bridges as the engine has them: their numbers, and the memory of their FDBs.

A forwarder makes a bridge's table in a memfd and gives the keeper a copy of the fd; the next
forwarder goes on with the table, static entries and all.
"""

from __future__ import annotations

from collections.abc import Mapping

from fastpath import channel
from fastpath.channel import Send, close_all
from fastpath.native import Engine, NativeError, fdb_bytes
from fastpath.protocol import WireBridge, WireStatic
from fastpath.regions import FDB_PREFIX, make_region

READ_ROWS = 1024


class Tables:
    """``live`` are the bridges in the engine; ``fds`` their tables, taken-over ones included."""

    def __init__(self, engine: Engine, send: Send) -> None:
        self._engine = engine
        self._send = send
        self.live: dict[str, WireBridge] = {}
        self.fds: dict[str, int] = {}

    def add(self, slot: int, bridge: WireBridge) -> None:
        """With the table that was left for it, if it is one of that size; else with a new one."""
        name = bridge.name
        if name in self.fds:
            try:
                self._engine.bridge_add(slot, name, bridge.fdb_entries_max, self.fds[name])
            except NativeError:
                self.forget(name)
            else:
                self.live[name] = bridge
                return
        fd = make_region(f"fdb-{name}", fdb_bytes(bridge.fdb_entries_max))
        try:
            self._engine.bridge_add(slot, name, bridge.fdb_entries_max, fd)
        except NativeError:
            close_all([fd])
            raise
        self.fds[name] = fd
        self._send(channel.Region(FDB_PREFIX + name), [fd])
        self.live[name] = bridge

    def drop(self, slot: int, name: str) -> None:
        self._engine.bridge_remove(slot)
        del self.live[name]
        self.forget(name)

    def forget(self, name: str) -> None:
        """Close the table here and at the keeper."""
        fd = self.fds.pop(name, None)
        if fd is not None:
            close_all([fd])
            self._send(channel.Forget(FDB_PREFIX + name), [])

    def statics(self, slot: int, bridge: str, ports: Mapping[int, str]) -> dict[str, WireStatic]:
        """Static entries that the table holds, by key. ``ports``: names by number."""
        found: dict[str, WireStatic] = {}
        cursor = 0
        while True:
            rows, cursor = self._engine.fdb_dump(slot, cursor, READ_ROWS)
            for row in rows:
                if row.static:
                    static = WireStatic(bridge, row.mac, row.vid, ports.get(row.port, ""))
                    found[static.key] = static
            if cursor == 0:
                return found
