"""Typed face of what netmap programs and the forwarder say to each other: layouts of client_wire.h,
netmap's words of netmap_abi.h, calls of client_view.h.

With native.py and its siblings the only module that touches ``fastpath._native``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from fastpath._native import ffi, lib
from fastpath.native import NativeError

VERSION: int = lib.CLIENT_WIRE_VERSION
FDS_MAX: int = lib.CLIENT_FDS
REQUEST_BYTES: int = ffi.sizeof("struct client_request")
ANSWER_BYTES: int = ffi.sizeof("struct client_answer")

REGISTER: int = lib.CLIENT_REGISTER
DESCRIBE: int = lib.CLIENT_DESCRIBE
INFO: int = lib.CLIENT_INFO
LIST: int = lib.CLIENT_LIST
HDR_SET: int = lib.CLIENT_HDR_SET
HDR_GET: int = lib.CLIENT_HDR_GET
PEER: int = lib.CLIENT_PEER
NEWS: int = lib.CLIENT_NEWS
REGION: int = lib.CLIENT_REGION
FDB: int = lib.CLIENT_FDB
ALIVE: int = lib.CLIENT_ALIVE

MODE_ALL: int = lib.NR_REG_ALL_NIC
MODE_ONE: int = lib.NR_REG_ONE_NIC
MODE_NULL: int = lib.NR_REG_NULL
MONITOR_TX: int = lib.NR_MONITOR_TX
MONITOR_RX: int = lib.NR_MONITOR_RX
EXCLUSIVE: int = lib.NR_EXCLUSIVE
RX_ONLY: int = lib.NR_RX_RINGS_ONLY
TX_ONLY: int = lib.NR_TX_RINGS_ONLY


@dataclass(frozen=True, slots=True)
class Request:
    """``struct client_request``, without what is reserved."""

    id: int
    version: int
    type: int
    name: str
    program: str
    mode: int
    ring_id: int
    flags: int
    tx_rings: int
    rx_rings: int
    tx_slots: int
    rx_slots: int
    mem_id: int
    hdr_len: int
    index: int
    switch_index: int


@dataclass(slots=True)
class Answer:
    """``struct client_answer``, without what is reserved. Filled in by whoever serves a request."""

    id: int = 0
    error: int = 0
    session: int = 0
    port_index: int = 0
    name: str = ""
    mode: int = 0
    ring_id: int = 0
    flags: int = 0
    tx_rings: int = 0
    rx_rings: int = 0
    tx_slots: int = 0
    rx_slots: int = 0
    mem_id: int = 0
    shared: int = 0
    hdr_len: int = 0
    index: int = 0
    switch_index: int = 0
    more: int = 0
    side: int = 0
    fdb_number: int = 0
    fdb_bytes: int = 0


ANSWER_FIELDS = tuple(field.name for field in fields(Answer))


def _text(array: Any) -> str:
    """Up to its 0, or the array's end. What is no UTF-8 is no name either."""
    return bytes(ffi.buffer(array)).partition(b"\0")[0].decode(errors="replace")


def request(packet: bytes) -> Request | None:
    """None: it has another size."""
    if len(packet) != REQUEST_BYTES:
        return None
    raw = ffi.from_buffer("struct client_request *", packet)
    values: dict[str, Any] = {field.name: getattr(raw, field.name) for field in fields(Request)}
    for name in ("name", "program"):
        values[name] = _text(values[name])
    return Request(**values)


def pack(answer: Answer) -> bytes:
    """As it goes over the wire."""
    raw = ffi.new("struct client_answer *")
    for name in ANSWER_FIELDS:
        value = getattr(answer, name)
        setattr(raw, name, value.encode() if isinstance(value, str) else value)
    return bytes(ffi.buffer(raw))


@dataclass(frozen=True, slots=True)
class View:
    """``struct client_view``: what a program counts, for those who look at it. Not trusted."""

    syncs: int = 0
    sleeps: int = 0
    invalid: int = 0
    full: int = 0


def view(memory: int) -> View:
    """Of the memory of a port or a pipe; NativeError when it is none."""
    out = ffi.new("struct client_view *")
    _check(lib.client_view_read(memory, out))
    return View(out.syncs, out.sleeps, out.invalid, out.full)


def gone(memory: int) -> None:
    """From now on the program is told ENXIO; NativeError when it is no such memory."""
    _check(lib.client_view_gone(memory))


def _check(rc: int) -> None:
    if rc < 0:
        raise NativeError(-rc, "", f"no memory of a netmap program's port (errno {-rc})")
