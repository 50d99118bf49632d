"""Shared memory that outlives a forwarder: sealed memfds, and the applied configuration in one.

The keeper holds the fds and never maps them. :class:`StateStore` keeps two halves. A half is a
header and records, each with its length and a checksum that also covers where it stands: first the
configuration as it was when the half was begun, then a journal of what changed since. A change is
one record, so that it costs what it holds and a successor finds it whole or not at all. When the
journal has grown as long as what it changes, the other half is begun aside, a portion at a time;
its header, written last, makes it the one that counts.
"""

from __future__ import annotations

import fcntl
import hashlib
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from fastpath.protocol import (
    HASH_BYTES,
    WireGroup,
    WireObject,
    WirePolicer,
    WireRule,
    WireRuleSet,
)

STATE = "state"
STATS = "stats"
CONNTRACK = "conntrack"
CONTROL_SOCKET = "listen/control"
HANDOVER_SOCKET = "listen/handover"
NETMAP_SOCKET = "listen/netmap"
FDB_PREFIX = "fdb/"
PAIR_PREFIX = "pair/"  # fastpath.pairs
PAIR_FDS_MAX = 1536
# Sparse: only what is written costs memory. A rule takes 200 bytes, more with long lists.
STATE_BYTES = 512 << 20
JOURNAL_BYTES = 4 << 20  # a journal up to here is short, whatever it changes
PORTION = 2048  # objects written at a time: 3 ms

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_HEADER = struct.Struct("<8sQQ16s")
_RECORD = struct.Struct("<I16s")
_END = bytes(4)  # a length of 0
_MAGIC = b"vsw-st02"
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


class Kept(msgspec.Struct, frozen=True):
    """A rule set that is in force though another one is wanted, with what it was made of."""

    ruleset: WireRuleSet
    rules: tuple[WireRule, ...]
    groups: tuple[WireGroup, ...] = ()
    policers: tuple[WirePolicer, ...] = ()


class State(msgspec.Struct, frozen=True):
    """What a forwarder needs to go on where the last one stopped."""

    revision: int = 0
    hash: bytes = bytes(HASH_BYTES)
    generation: int = 0
    objects: tuple[WireObject, ...] = ()
    bridge_slots: dict[str, int] = {}
    port_slots: dict[str, int] = {}
    kept: tuple[Kept, ...] = ()


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """A change of the state. Slots: all of them, None: as before. ``let_go``: names of sets."""

    revision: int
    hash: bytes
    generation: int
    upserts: tuple[WireObject, ...] = ()
    deletes: tuple[str, ...] = ()
    bridge_slots: dict[str, int] | None = None
    port_slots: dict[str, int] | None = None
    kept: tuple[Kept, ...] = ()
    let_go: tuple[str, ...] = ()


def replay(state: State, records: Iterable[Record]) -> State:
    """The state behind these changes."""
    objects: dict[str, WireObject] = {obj.key: obj for obj in state.objects}
    kept = {item.ruleset.name: item for item in state.kept}
    bridge_slots, port_slots = state.bridge_slots, state.port_slots
    revision, hash, generation = state.revision, state.hash, state.generation
    for record in records:
        for key in record.deletes:
            objects.pop(key, None)
        for obj in record.upserts:
            objects[obj.key] = obj
        for name in record.let_go:
            kept.pop(name, None)
        for item in record.kept:
            kept[item.ruleset.name] = item
        if record.bridge_slots is not None:
            bridge_slots = record.bridge_slots
        if record.port_slots is not None:
            port_slots = record.port_slots
        revision, hash, generation = record.revision, record.hash, record.generation
    return State(
        revision,
        hash,
        generation,
        tuple(objects.values()),
        bridge_slots,
        port_slots,
        tuple(kept.values()),
    )


def _records(state: State) -> Iterator[Record]:
    """The state as changes of an empty one."""
    yield Record(
        state.revision,
        state.hash,
        state.generation,
        bridge_slots=state.bridge_slots,
        port_slots=state.port_slots,
        kept=state.kept,
    )
    objects = iter(state.objects)
    while part := tuple(islice(objects, PORTION)):
        yield Record(state.revision, state.hash, state.generation, part)


class StateTooLarge(Exception):
    """The configuration does not fit into the state memory."""


@dataclass(slots=True)
class _Half:
    """Where the records of a half lie: ``begun`` bytes first, then the journal up to ``end``."""

    base: int
    seq: int
    begun: int = _HEADER_ROOM
    end: int = _HEADER_ROOM


@dataclass(slots=True)
class _Aside:
    """A half that is being written, and what was added to the one that counts meanwhile."""

    half: _Half
    records: Iterator[Record]
    missed: list[bytes] = field(default_factory=list)


class StateStore:
    """Reads and writes :class:`State` in a memfd of STATE_BYTES. One writer at a time."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self._half_bytes = len(self._map) // 2
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(Record)
        self._half = _Half(0, 0)
        self._newest = 0  # half's number when it was loaded, whole or not
        self._aside: _Aside | None = None

    def close(self) -> None:
        self._map.close()

    # --- reading --------------------------------------------------------------------------------

    def load(self) -> State:
        """What the newest whole half says; an empty state when there is none."""
        self._aside = None
        self._half = _Half(0, 0)
        found = self._halves()
        self._newest = found[0].seq if found else 0
        for half in found:
            records = self._read(half)
            if half.end >= half.begun:
                self._half = half
                return replay(State(), records)
        return State()

    def follow(self) -> list[Record] | None:
        """What another process appended since :meth:`load` or this; None: it began anew."""
        found = self._halves()
        if (found[0].seq if found else 0) != self._newest:
            return None
        return self._read(self._half) if self._half.seq else []

    def _halves(self) -> list[_Half]:
        """Those with a header, the newest first."""
        found = [self._header(base) for base in (0, self._half_bytes)]
        return sorted((h for h in found if h is not None), key=lambda h: -h.seq)

    def _header(self, base: int) -> _Half | None:
        magic, seq, begun, digest = _HEADER.unpack_from(self._map, base)
        whole = digest == self._digest(seq, base, begun.to_bytes(8, "little"))
        return _Half(base, seq, begun) if magic == _MAGIC and whole else None

    def _read(self, half: _Half) -> list[Record]:
        """Every whole record from ``half.end`` on, which goes behind them."""
        records: list[Record] = []
        while (payload := self._record(half, half.end)) is not None:
            records.append(self._decoder.decode(payload))
            half.end += _RECORD.size + len(payload)
        return records

    def _record(self, half: _Half, at: int) -> bytes | None:
        if at + _RECORD.size > self._half_bytes:
            return None
        size, digest = _RECORD.unpack_from(self._map, half.base + at)
        start = at + _RECORD.size
        if not 0 < size <= self._half_bytes - start:
            return None
        payload = self._map[half.base + start : half.base + start + size]
        return payload if self._digest(half.seq, at, payload) == digest else None

    @staticmethod
    def _digest(seq: int, at: int, payload: bytes) -> bytes:
        """No record is taken for one of an earlier half, or of another place."""
        salt = seq.to_bytes(8, "little") + at.to_bytes(8, "little")
        return hashlib.blake2b(payload, digest_size=16, salt=salt).digest()

    # --- writing --------------------------------------------------------------------------------

    def append(self, record: Record) -> None:
        """Make a change what :meth:`load` finds; StateTooLarge leaves what was."""
        if self._half.seq == 0:
            self.save(State())
        payload = self._encoder.encode(record)
        self._put(self._half, payload)
        if self._aside is not None:
            self._aside.missed.append(payload)

    def save(self, state: State) -> None:
        """Make ``state`` what :meth:`load` finds; StateTooLarge leaves what was."""
        self.begin(state)
        while self.step():
            pass

    @property
    def crowded(self) -> bool:
        """The journal is longer than what it changes: time to begin anew."""
        half = self._half
        return self._aside is None and half.end - half.begun > max(JOURNAL_BYTES, half.begun)

    @property
    def busy(self) -> bool:
        """A half is being written aside: :meth:`step` goes on with it."""
        return self._aside is not None

    def begin(self, state: State) -> None:
        """Write this state, which is the present one, aside."""
        base = self._half_bytes - self._half.base if self._half.seq else 0
        self._aside = _Aside(_Half(base, self._half.seq + 1), _records(state))

    def step(self) -> bool:
        """One portion; True when more are to come. StateTooLarge: the half aside is given up."""
        aside = self._aside
        if aside is None:
            return False
        try:
            record = next(aside.records, None)
            if record is not None:
                self._put(aside.half, self._encoder.encode(record))
                return True
            aside.half.begun = aside.half.end
            for payload in aside.missed:
                self._put(aside.half, payload)
        except StateTooLarge:
            self._aside = None
            raise
        self._finish(aside.half)
        return False

    def _finish(self, half: _Half) -> None:
        digest = self._digest(half.seq, half.base, half.begun.to_bytes(8, "little"))
        header = _HEADER.pack(_MAGIC, half.seq, half.begun, digest)
        self._map[half.base : half.base + _HEADER.size] = header
        self._half, self._aside = half, None

    def _put(self, half: _Half, payload: bytes) -> None:
        """A record behind the others: its bytes, the end behind it, and then that it is there."""
        start = half.end + _RECORD.size
        if start + len(payload) + len(_END) > self._half_bytes:
            raise StateTooLarge(f"{len(payload)} bytes more do not fit into the state memory")
        at = half.base + start
        self._map[at : at + len(payload) + len(_END)] = payload + _END
        head = _RECORD.pack(len(payload), self._digest(half.seq, half.end, payload))
        self._map[half.base + half.end : at] = head
        half.end = start + len(payload)
