"""Shared memory that outlives a forwarder: sealed memfds, and the applied configuration in one.

The keeper holds the fds and never maps them. :class:`StateStore` keeps two halves and writes them
in turn, payload first, header last, so that whatever instant the writer is killed at, the newest
whole half is found by the next forwarder.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct

import msgspec

from fastpath.protocol import HASH_BYTES, WireObject

STATE = "state"
STATS = "stats"
CONNTRACK = "conntrack"
CONTROL_SOCKET = "listen/control"
HANDOVER_SOCKET = "listen/handover"
FDB_PREFIX = "fdb/"
# Sparse: only what is written costs memory. 64 bridges of 8,192 static entries need half of it.
STATE_BYTES = 128 << 20

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HEADER = struct.Struct("<8sQQ16s")
_MAGIC = b"vsw-st01"
_HEADER_ROOM = 4096


def make_region(name: str, size_bytes: int) -> int:
    """A zeroed memfd of that size that can neither shrink nor grow."""
    fd = os.memfd_create(f"vswitch-{name}", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


class State(msgspec.Struct, frozen=True):
    """What a forwarder needs to go on where the last one stopped."""

    revision: int = 0
    hash: bytes = bytes(HASH_BYTES)
    generation: int = 0
    objects: tuple[WireObject, ...] = ()
    bridge_slots: dict[str, int] = {}
    port_slots: dict[str, int] = {}


class StateTooLarge(Exception):
    """The configuration does not fit into the state memory."""


class StateStore:
    """Reads and writes :class:`State` in a memfd of STATE_BYTES."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self._half_bytes = len(self._map) // 2
        self._seq = 0

    def close(self) -> None:
        self._map.close()

    def load(self) -> State:
        """The newest whole half; an empty state when there is none."""
        best: tuple[int, bytes] | None = None
        for base in (0, self._half_bytes):
            found = self._half(base)
            if found is not None and (best is None or found[0] > best[0]):
                best = found
        if best is None:
            return State()
        self._seq = best[0]
        return msgspec.msgpack.decode(best[1], type=State)

    def _half(self, base: int) -> tuple[int, bytes] | None:
        magic, seq, size, digest = _HEADER.unpack_from(self._map, base)
        if magic != _MAGIC or size > self._half_bytes - _HEADER_ROOM:
            return None
        start = base + _HEADER_ROOM
        payload = self._map[start : start + size]
        return (seq, payload) if self._digest(seq, payload) == digest else None

    @staticmethod
    def _digest(seq: int, payload: bytes) -> bytes:
        return hashlib.blake2b(payload, digest_size=16, salt=seq.to_bytes(16, "little")).digest()

    def save(self, state: State) -> None:
        """Make ``state`` what :meth:`load` finds; StateTooLarge leaves the old one."""
        payload = msgspec.msgpack.encode(state)
        if len(payload) > self._half_bytes - _HEADER_ROOM:
            raise StateTooLarge(f"the configuration takes {len(payload)} bytes")
        self._seq += 1
        base = (self._seq % 2) * self._half_bytes
        start = base + _HEADER_ROOM
        self._map[start : start + len(payload)] = payload
        header = _HEADER.pack(_MAGIC, self._seq, len(payload), self._digest(self._seq, payload))
        self._map[base : base + _HEADER.size] = header
