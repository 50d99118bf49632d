"""Connections that rules with a state made the forwarder track: asked for, forgotten, bounded."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from ipaddress import ip_address

from fastpath.apply import Applier
from fastpath.native import ANY, NativeError
from fastpath.native_connections import (
    STATE_BITS,
    ConnectionFilter,
    ConnectionReading,
    ConnectionSettings,
    ConnectionTable,
)
from fastpath.protocol import Connection, ConnectionQuery, Connections

ROWS_MAX = 2048
CURSOR_MAX = (1 << 32) - 1


def settings(limits: Mapping[str, int]) -> ConnectionSettings:
    """A port may begin a quarter of what the table holds, unless the limits say how many."""
    return ConnectionSettings(
        port_quota=limits["connections_port_max"] or (limits["connections_max"] + 3) // 4,
        tcp_opening=limits["tcp_opening_s"],
        tcp_established=limits["tcp_established_s"],
        tcp_closing=limits["tcp_closing_s"],
        udp_new=limits["udp_new_s"],
        udp_established=limits["udp_established_s"],
        icmp=limits["icmp_s"],
        tcp_loose=bool(limits["tcp_loose"]),
    )


def rows(
    applier: Applier, id: int, query: ConnectionQuery, cursor: int, limit: int, most: int
) -> Connections:
    """A page from table position ``cursor``; a limit of 0 asks only how many there are.

    ``most``: how many there can be. KeyError when the bridge or port is not in force.
    """
    table = ConnectionTable(applier.engine)
    which = _filter(applier, query)
    found: list[ConnectionReading] = []
    after = 0
    if limit > 0 and 0 <= cursor <= CURSOR_MAX:
        found, after = table.rows(which, cursor, min(limit, ROWS_MAX))
    bridges = {slot: name for name, slot in applier.bridge_slots.items()}
    ports = {slot: name for name, slot in applier.port_slots.items()}
    shown = tuple(_row(one, bridges, ports) for one in found)
    return Connections(id, shown, after, table.count(), most)


def flush(applier: Applier, query: ConnectionQuery) -> int:
    """Connections forgotten; KeyError when the bridge or port is not in force."""
    return ConnectionTable(applier.engine).flush(_filter(applier, query))


def _filter(applier: Applier, query: ConnectionQuery) -> ConnectionFilter:
    try:
        address = ip_address(query.address).packed if query.address else b""
    except ValueError as error:
        raise NativeError(errno.EINVAL, "INVALID", str(error)) from error
    if not 0 <= query.proto <= 255 or (query.state and query.state not in STATE_BITS):
        text = f"no connection has protocol {query.proto} and state {query.state!r}"
        raise NativeError(errno.EINVAL, "INVALID", text)
    return ConnectionFilter(
        bridge=applier.bridge_slots[query.bridge] if query.bridge else ANY,
        port=applier.port_slots[query.port] if query.port else ANY,
        address=address,
        proto=query.proto,
        state=query.state,
    )


def _row(
    one: ConnectionReading, bridges: Mapping[int, str], ports: Mapping[int, str]
) -> Connection:
    return Connection(
        bridge=bridges.get(one.bridge, ""),
        vid=one.vid,
        port=ports.get(one.port, ""),
        proto=one.proto,
        src=str(ip_address(one.src)),
        dst=str(ip_address(one.dst)),
        src_port=one.src_port,
        dst_port=one.dst_port,
        state=one.state,
        tcp_state=one.tcp_state,
        expires_s=one.expires_s,
        frames=one.frames,
        bytes=one.bytes,
    )
