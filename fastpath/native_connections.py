"""Typed face of the C half's connections: layouts of conntrack.h, calls of engine.h.

With native.py and native_rules.py the only module that touches ``fastpath._native``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fastpath._native import ffi, lib
from fastpath.native import ANY, Engine

STATES = {lib.FLOW_NEW: "new", lib.FLOW_ESTABLISHED: "established"}
STATE_BITS = {name: bit for bit, name in STATES.items()}
TCP_STATES = {
    lib.CONNTRACK_TCP_NONE: "",
    lib.CONNTRACK_TCP_SYN_SENT: "syn_sent",
    lib.CONNTRACK_TCP_SIMULTANEOUS: "simultaneous",
    lib.CONNTRACK_TCP_SYN_RECEIVED: "syn_received",
    lib.CONNTRACK_TCP_ESTABLISHED: "established",
    lib.CONNTRACK_TCP_FIN_WAIT: "fin_wait",
    lib.CONNTRACK_TCP_CLOSE_WAIT: "close_wait",
    lib.CONNTRACK_TCP_CLOSING: "closing",
    lib.CONNTRACK_TCP_CLOSED: "closed",
}


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """``struct conntrack_settings``: seconds of silence, and how many a port may begin."""

    port_quota: int
    tcp_opening: int
    tcp_established: int
    tcp_closing: int
    udp_new: int
    udp_established: int
    icmp: int
    tcp_loose: bool


@dataclass(frozen=True, slots=True)
class ConnectionFilter:
    """``struct conntrack_filter``. ``address``: 4 or 16 bytes, of either end; b"" any."""

    bridge: int = ANY
    port: int = ANY
    address: bytes = b""
    proto: int = 0
    state: str = ""


@dataclass(frozen=True, slots=True)
class ConnectionReading:
    """``struct conntrack_row``: ``src`` began it; bridge and port are numbers."""

    bridge: int
    vid: int
    port: int
    proto: int
    src: bytes
    dst: bytes
    src_port: int
    dst_port: int
    state: str
    tcp_state: str
    expires_s: int
    frames: tuple[int, int]
    bytes: tuple[int, int]


def conntrack_bytes(connections_max: int) -> int:
    """Size of the connections' memfd."""
    return int(lib.engine_conntrack_bytes(connections_max))


class ConnectionTable:
    """The connections of an engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def set(self, settings: ConnectionSettings) -> None:
        into = ffi.new("struct conntrack_settings *")
        for field in fields(settings):
            setattr(into, field.name, getattr(settings, field.name))
        lib.engine_conntrack_settings(self._engine.handle, into)

    def rows(
        self, which: ConnectionFilter, cursor: int, limit: int
    ) -> tuple[list[ConnectionReading], int]:
        """At most ``limit`` from table position ``cursor``; the next one, 0 at the end."""
        found = ffi.new("struct conntrack_row[]", limit)
        position = ffi.new("uint32_t *", cursor)
        count = lib.engine_conntrack_dump(
            self._engine.handle, _filter(which), position, found, limit
        )
        return [_reading(row) for row in found[0:count]], int(position[0])

    def flush(self, which: ConnectionFilter) -> int:
        """Returns how many were removed."""
        return int(lib.engine_conntrack_flush(self._engine.handle, _filter(which)))

    def count(self) -> int:
        return int(lib.engine_conntrack_count(self._engine.handle))


def _filter(which: ConnectionFilter) -> Any:
    into = ffi.new("struct conntrack_filter *")
    into.bridge, into.port, into.proto = which.bridge, which.port, which.proto
    into.state = STATE_BITS.get(which.state, 0)
    if which.address:
        into.ip_version = 4 if len(which.address) == 4 else 6
        ffi.memmove(into.address, which.address.rjust(16, b"\0"), 16)
    return into


def _reading(row: Any) -> ConnectionReading:
    first = 12 if row.ip_version == 4 else 0
    return ConnectionReading(
        bridge=row.bridge,
        vid=row.vid,
        port=row.port,
        proto=row.proto,
        src=bytes(ffi.buffer(row.src))[first:],
        dst=bytes(ffi.buffer(row.dst))[first:],
        src_port=row.src_port,
        dst_port=row.dst_port,
        state=STATES[row.state],
        tcp_state=TCP_STATES[row.tcp_state],
        expires_s=row.expires_s,
        frames=(row.frames[0], row.frames[1]),
        bytes=(row.bytes[0], row.bytes[1]),
    )
