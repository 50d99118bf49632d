"""fdb.c against a dict: learning, moves, ageing, static entries, quota, flush, takeover.

The tables are small, so the oldest entry of a port is found exactly (fdb.h); among equally old
ones either may go, and the model follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from tests.support.core import core

ANY = 0xFFFF
ENOENT, ENOSPC = 2, 28
MACS = [bytes([2, 0, 0, 0, n >> 8, n & 255]) for n in range(40)]

macs = st.sampled_from(MACS)
vids = st.sampled_from([0, 1, 4094])
ports = st.integers(0, 4)

Key = tuple[bytes, int]


@dataclass
class Entry:
    port: int
    tick: int
    static: bool = False
    moves: int = 0


class FdbMachine(RuleBasedStateMachine):
    @initialize(
        entries=st.sampled_from([1, 2, 3, 5, 8, 24]),
        quota=st.sampled_from([0, 0, 0, 1, 3]),
        tick=st.sampled_from([0, 1000, 0x7FFFFFF0, 0xFFFFFFF0]),
        seed=st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4),
    )
    def start(self, entries: int, quota: int, tick: int, seed: list[int]) -> None:
        ffi, lib = core()
        self.entries_max, self.quota, self.tick, self.seed = entries, quota, tick, seed
        self.base = tick
        room = ffi.new("uint8_t[]", lib.fdb_bytes(entries) + 4096)
        self._room = room
        start = int(ffi.cast("uintptr_t", room))
        self.memory: Any = room + (-start % 4096)
        self.model: dict[Key, Entry] = {}
        self.fdb = self.opened(reset=False)

    def opened(self, reset: bool) -> Any:
        ffi, lib = core()
        fdb = lib.shim_fdb_open(self.memory, self.entries_max, self.quota, self.seed, reset)
        assert fdb != ffi.NULL
        return fdb

    def teardown(self) -> None:
        if hasattr(self, "fdb"):
            core()[1].fdb_close(self.fdb)

    # --- what the table holds

    def key(self, mac: bytes, vid: int) -> int:
        return int(core()[1].shim_fdb_key(mac, vid))

    def dump(self, step: int) -> dict[Key, Entry]:
        ffi, lib = core()
        cursor = ffi.new("uint64_t *", 0)
        rows = ffi.new("struct fdb_entry[]", step)
        found: dict[Key, Entry] = {}
        while True:
            count = lib.fdb_dump(self.fdb, cursor, rows, step)
            for row in rows[0:count]:
                key = (bytes(row.mac), row.vid)
                assert key not in found
                found[key] = Entry(row.port, row.tick, row.is_static, row.moves)
            if cursor[0] == 0:
                return found

    def learned(self, port: int) -> dict[Key, Entry]:
        return {k: e for k, e in self.model.items() if e.port == port and not e.static}

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "fdb"):
            return
        _, lib = core()
        assert self.dump(7) == self.model
        assert lib.shim_fdb_count(self.fdb) == len(self.model) <= self.entries_max
        for port in range(5):
            assert lib.shim_fdb_port_count(self.fdb, port) == len(self.learned(port))
        for (mac, vid), entry in self.model.items():
            assert lib.shim_fdb_lookup(self.fdb, self.key(mac, vid)) == entry.port

    # --- eviction

    def victims(self, port: int, spare: Key | None) -> set[Key]:
        """Those of a port that were not seen for longest."""
        held = {k: self.age(e) for k, e in self.learned(port).items() if k != spare}
        return {k for k, age in held.items() if age == max(held.values())}

    def age(self, entry: Entry) -> int:
        age = (self.tick - entry.tick) % 2**32
        return age if age < 2**31 else 0

    def room(self, key: Key, port: int, new: bool) -> set[Key] | None:
        """Who may have to go for one more entry; an empty set: nobody; None: no room."""
        if self.quota and len(self.learned(port)) >= self.quota:
            return self.victims(port, key) or None
        if not new or len(self.model) < self.entries_max:
            return set()
        most = max(len(self.learned(p)) for p in range(5))
        largest = [p for p in range(5) if len(self.learned(p)) == most]
        # Fair: a port that holds as much as any other pays itself.
        payers = [port] if port in largest else largest[:1]
        return self.victims(payers[0], key) or None

    def follow(self, allowed: set[Key]) -> None:
        """Takes out of the model the one of these that the table gave up."""
        left = self.dump(64)
        gone = [key for key in allowed if key not in left]
        assert len(gone) == (1 if allowed else 0)
        for key in gone:
            del self.model[key]

    # --- rules

    @rule(mac=macs, vid=vids, port=ports)
    def learn(self, mac: bytes, vid: int, port: int) -> None:
        _, lib = core()
        key = (mac, vid)
        known = self.model.get(key)
        result = lib.shim_fdb_learn(self.fdb, self.key(*key), port, self.tick)
        event(("refreshed", "new", "moved", "refused")[result])
        if known and known.port == port:
            assert result == lib.FDB_REFRESHED
            if not known.static and (self.tick - known.tick) % 2**32 < 2**31:
                known.tick = self.tick
            return
        room = None if known and known.static else self.room(key, port, known is None)
        if room is None:
            assert result == lib.FDB_REFUSED
            return
        assert result == (lib.FDB_MOVED if known else lib.FDB_NEW)
        self.follow(room)
        moves = min(known.moves + 1, 0x7FFF) if known else 0
        self.model[key] = Entry(port, self.tick, moves=moves)

    @rule(port=ports, first=st.integers(0, 39), count=st.integers(1, 40))
    def storm(self, port: int, first: int, count: int) -> None:
        """Entries of ports that hold no more than their share stay, whatever one port does."""
        share = self.entries_max // 5
        kept = {
            key
            for other in range(5)
            if other != port and len(self.learned(other)) <= share
            for key in self.learned(other)
        }
        seen = [MACS[(first + n) % len(MACS)] for n in range(count)]
        kept = {key for key in kept if key[0] not in seen}
        for mac in seen:
            self.learn(mac, 1, port)
        if len(self.model) - len(self.statics()) >= 5 * share:
            assert kept <= set(self.model)

    def statics(self) -> set[Key]:
        return {key for key, entry in self.model.items() if entry.static}

    @rule(ticks=st.sampled_from([1, 1, 5, 100, 1000]))
    def time_passes(self, ticks: int) -> None:
        self.tick = (self.tick + ticks) % 2**32

    @rule(ageing=st.sampled_from([0, 5, 300]))
    def age_all(self, ageing: int) -> None:
        _, lib = core()
        old = {k for k, e in self.model.items() if not e.static and self.age(e) > ageing}
        removed = lib.fdb_age(self.fdb, self.tick, ageing, lib.shim_fdb_slots(self.fdb))
        # A removal pulls entries back across the end of the table: these wait for the next round.
        removed += lib.fdb_age(self.fdb, self.tick, ageing, lib.shim_fdb_slots(self.fdb))
        assert removed == len(old)
        for key in old:
            del self.model[key]

    @rule(port=st.one_of(ports, st.just(ANY)), vid=st.one_of(vids, st.just(ANY)))
    def flush(self, port: int, vid: int) -> None:
        _, lib = core()
        gone = {
            key
            for key, entry in self.model.items()
            if not entry.static and port in (ANY, entry.port) and vid in (ANY, key[1])
        }
        assert lib.fdb_flush(self.fdb, port, vid) == len(gone)
        for key in gone:
            del self.model[key]

    @rule(mac=macs, vid=vids, port=ports)
    def set_static(self, mac: bytes, vid: int, port: int) -> None:
        _, lib = core()
        key = (mac, vid)
        known = self.model.get(key)
        result = lib.fdb_set_static(self.fdb, self.key(*key), port, self.tick)
        if known is None and len(self.statics()) == self.entries_max:
            assert result == -ENOSPC
            return
        assert result == 0
        if known is None and len(self.model) == self.entries_max:
            most = max(len(self.learned(p)) for p in range(5))
            payers = [p for p in range(5) if len(self.learned(p)) == most]
            self.follow(self.victims(port if port in payers else payers[0], key))
        self.model[key] = Entry(port, self.tick, True, known.moves if known else 0)

    @rule(mac=macs, vid=vids)
    def clear_static(self, mac: bytes, vid: int) -> None:
        _, lib = core()
        found = (mac, vid) in self.statics()
        assert lib.fdb_clear_static(self.fdb, self.key(mac, vid)) == (0 if found else -ENOENT)
        if found:
            del self.model[mac, vid]

    @rule(mac=macs, vid=vids)
    def look_up(self, mac: bytes, vid: int) -> None:
        _, lib = core()
        entry = self.model.get((mac, vid))
        assert lib.shim_fdb_lookup(self.fdb, self.key(mac, vid)) == (entry.port if entry else -1)

    @rule()
    def take_over(self) -> None:
        core()[1].fdb_close(self.fdb)
        self.seed = [1, 2, 3, 4]  # the table keeps its own
        self.fdb = self.opened(reset=False)

    @rule(keep=st.frozensets(ports))
    def retain(self, keep: frozenset[int]) -> None:
        ffi, lib = core()
        bits = ffi.new("uint64_t[]", [sum(1 << port for port in keep)] + [0] * 63)
        gone = {key for key, entry in self.model.items() if entry.port not in keep}
        assert lib.fdb_retain(self.fdb, bits) == len(gone)
        for key in gone:
            del self.model[key]

    @precondition(lambda self: len(self.model) > 4)
    @rule()
    def reset(self) -> None:
        core()[1].fdb_close(self.fdb)
        self.fdb = self.opened(reset=True)
        self.model = {}


TestFdb = FdbMachine.TestCase
TestFdb.settings = settings(settings.get_profile("vswitch"), stateful_step_count=60)
