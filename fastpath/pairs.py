"""Direct mode in the forwarder: who is in it now, the memories that pairs of programs share, and
the table of addresses they may read.

A pair is made when one of the two asks for it, and goes with either port. The keeper has its fds as
regions, so the next forwarder goes on with it, and with its books. Programs are told by their own
memory: a number that says that pair lanes may be used now and which table of addresses holds, 0
that they may not. That is taken back before anything that has to see their frames comes into force,
and given after it is out of force.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass

from fastpath import channel, native_links
from fastpath.apply import Applier
from fastpath.channel import Send, close_all
from fastpath.client_names import RequestError
from fastpath.client_ports import CLIENT, rings_of
from fastpath.client_requests import Asker, Reply
from fastpath.direct_groups import DIRECT, groups
from fastpath.native import NativeError
from fastpath.native_clients import Answer, Request
from fastpath.protocol import WirePort
from fastpath.regions import PAIR_FDS_MAX, PAIR_PREFIX

PAIR_BYTES = 1 << 21  # of the lanes of one direction, together


@dataclass(frozen=True, slots=True)
class End:
    """A port with the memory that it has now: another program's is another end."""

    slot: int
    name: str
    inode: int


@dataclass(frozen=True, slots=True)
class Member:
    """An end in a group. ``memory``: the applier's fd."""

    end: End
    bridge: str
    memory: int
    rings: int  # that it sends by


@dataclass(frozen=True, slots=True)
class Pair:
    """``fds`` as client_memory.h orders them; the end with the lower number is side 0."""

    low: End
    high: End
    fds: tuple[int, ...]

    def side(self, end: End) -> list[int]:
        return native_links.side(list(self.fds), int(end == self.high))

    def other(self, end: End) -> End:
        return self.low if end == self.high else self.high

    @property
    def key(self) -> str:
        """What regions are called; the number of the fd follows."""
        ends = (f"{end.slot}|{end.inode}|{end.name}" for end in (self.low, self.high))
        return PAIR_PREFIX + "|".join(ends)


@dataclass(slots=True)
class _Table:
    """Of a bridge: which of the engine's it is, whose addresses it shows, its fd and number."""

    source: tuple[int, int]
    slots: tuple[int, ...]
    fd: int
    number: int


class Pairs:
    """``foresee`` before a change comes into force, ``settle`` after it did: it is ``unsettled``
    in between."""

    def __init__(self, applier: Applier, send: Send) -> None:
        self._applier = applier
        self._send = send
        self._members: dict[str, Member] = {}
        self.unsettled = False
        self._told: dict[str, tuple[int, int]] = {}  # by port: inode, number
        self._pairs: dict[tuple[End, End], Pair] = {}
        self._tables: dict[str, _Table] = {}
        # Never one that a program has of an earlier forwarder.
        self._number = int.from_bytes(os.urandom(3), "little") << 6

    # --- who is in it ---------------------------------------------------------------------------

    def _end(self, name: str) -> End | None:
        """As the port is now; None: it is not there, or about to go."""
        held = self._applier.held.get(name)
        if held is None or name not in self._applier.wanted.ports:
            return None
        if not self._applier.in_force(name):
            return None
        return End(self._applier.port_slots[name], name, os.fstat(held.fds[0]).st_ino)

    def _member(self, port: WirePort) -> Member | None:
        end = self._end(port.name)
        if end is None or port.bridge is None or port.bridge not in self._applier.tables.live:
            return None
        memory = self._applier.held[port.name].fds[0]
        return Member(end, port.bridge, memory, rings_of(port)[0])

    def _wanted(self) -> dict[str, Member]:
        wanted = self._applier.wanted
        found = groups(wanted.bridges, wanted.ports.values(), self._applier.rules)
        members = (self._member(port) for ports in found.values() for port in ports)
        return {member.end.name: member for member in members if member is not None}

    @property
    def _idle(self) -> bool:
        """Nobody wants it: nearly always."""
        bridges = self._applier.wanted.bridges.values()
        return not (self._members or self._pairs) and not any(
            bridge.clients.mode == DIRECT for bridge in bridges
        )

    def foresee(self) -> None:
        """Whoever will not be in it any more is out of it now."""
        if self._idle:
            return
        self.unsettled = True
        wanted = self._wanted()
        for name in [n for n, member in self._members.items() if wanted.get(n) != member]:
            self._tell(self._members.pop(name), 0)
        self._show()
        self._drop()

    def settle(self) -> None:
        """Whoever may be in it is, once nothing else is in force."""
        self.foresee()
        if self._applier.busy:
            return
        self.unsettled = False
        if self._idle:
            return
        wanted = self._wanted()
        if wanted != self._members:
            self._members = wanted
            self._show()
        for member in wanted.values():
            self._tell(member, self._tables[member.bridge].number)
        for name in self._told.keys() - self._applier.wanted.ports.keys():
            del self._told[name]

    def _silence(self) -> None:
        """Ports that a predecessor had told that they may, and may not."""
        for name, port in self._applier.wanted.ports.items():
            end = self._end(name) if port.type == CLIENT and name not in self._members else None
            if end is not None:
                self._tell(Member(end, "", self._applier.held[name].fds[0], 0), 0)

    def _tell(self, member: Member, number: int) -> None:
        end = member.end
        if self._told.get(end.name) == (end.inode, number):
            return
        with contextlib.suppress(NativeError, OSError):
            native_links.tell(member.memory, number)
        self._told[end.name] = (end.inode, number)

    def _show(self) -> None:
        """Their addresses, and nobody else's."""
        for bridge in {member.bridge for member in self._members.values()} | self._tables.keys():
            slots = sorted(m.end.slot for m in self._members.values() if m.bridge == bridge)
            self._show_bridge(bridge, tuple(slots))

    def _show_bridge(self, bridge: str, slots: tuple[int, ...]) -> None:
        applier = self._applier
        if bridge not in applier.tables.live:
            self._tables.pop(bridge, None)
            return
        source = (applier.bridge_slots[bridge], os.fstat(applier.tables.fds[bridge]).st_ino)
        table = self._tables.get(bridge)
        if table is None or table.source != source:
            self._number = (self._number + 1) & 0x7FFFFFFF or 1
            table = self._tables[bridge] = _Table(source, (), -1, self._number)
        if table.slots != slots or table.fd < 0:
            table.fd = applier.engine.fdb_show(source[0], slots)
            table.slots = slots

    # --- pairs ----------------------------------------------------------------------------------

    def _drop(self) -> None:
        """Pairs of ports that are gone, or another program's."""
        for key, pair in list(self._pairs.items()):
            if any(self._end(end.name) != end for end in key):
                del self._pairs[key]
                self._forget(pair)
                for end in key:
                    self._news(end)

    def _forget(self, pair: Pair) -> None:
        self._applier.engine.pair_remove(pair.low.slot, pair.high.slot)
        for number in range(len(pair.fds)):
            self._send(channel.Forget(f"{pair.key}/{number}"), [])
        close_all(list(pair.fds))

    def _news(self, end: End) -> None:
        """There is something to ask for, also while it sleeps."""
        if self._end(end.name) != end:
            return
        held = self._applier.held[end.name]
        number = self._told.get(end.name, (0, 0))[1]
        with contextlib.suppress(NativeError, OSError):
            native_links.tell(held.fds[0], number, news=True)
        for bell in native_links.side(held.fds, 1)[1:]:
            with contextlib.suppress(OSError):
                os.write(bell, b"\0")

    def _make(self, one: Member, two: Member) -> Pair:
        low, high = sorted((one, two), key=lambda member: member.end.slot)
        rings = (low.rings, high.rings)
        fds = native_links.make("pair", rings, PAIR_BYTES)
        pair = Pair(low.end, high.end, tuple(fds))
        try:
            if len(fds) + sum(len(pair.fds) for pair in self._pairs.values()) > PAIR_FDS_MAX:
                raise RequestError(errno.ENOSPC)
            self._applier.engine.pair_add(low.end.slot, high.end.slot, fds[0])
        except (NativeError, RequestError):
            close_all(fds)
            raise
        self._pairs[low.end, high.end] = pair
        for number, fd in enumerate(fds):
            self._send(channel.Region(f"{pair.key}/{number}"), [fd])
        return pair

    def _find(self, one: End, two: End) -> Pair | None:
        return self._pairs.get((one, two) if one.slot < two.slot else (two, one))

    # --- what programs ask ----------------------------------------------------------------------

    def _asker(self, asker: Asker) -> Member:
        member = self._members.get(asker.session.state.port) if asker.session is not None else None
        if member is None:
            raise RequestError(errno.ENXIO)
        return member

    def fdb(self, asker: Asker, request: Request) -> Reply:
        member = self._asker(asker)
        table = self._tables[member.bridge]
        answer = Answer(request.id, index=member.end.slot, fdb_number=table.number)
        return Reply(answer, [table.fd])

    def peer(self, asker: Asker, request: Request) -> Reply:
        me = self._asker(asker)
        other = next(
            (
                m
                for m in self._members.values()
                if m.end.slot == request.index and m.bridge == me.bridge and m != me
            ),
            None,
        )
        if other is None:
            raise RequestError(errno.ENXIO)
        pair = self._find(me.end, other.end)
        if pair is None:
            pair = self._make(me, other)
            self._news(other.end)
        return self._reply(request, pair, me.end)

    def news(self, asker: Asker, request: Request) -> Reply:
        """By number. Pairs that may not be used now, too: there may be frames in them."""
        end = self._end(asker.session.state.port) if asker.session is not None else None
        if end is None:
            raise RequestError(errno.ENXIO)
        pairs = sorted(
            (pair.other(end).slot, pair.key, pair)
            for key, pair in self._pairs.items()
            if end in key and pair.other(end).slot >= request.index
        )
        if not pairs:
            raise RequestError(errno.ENOENT)
        reply = self._reply(request, pairs[0][2], end)
        reply.answer.more = int(len(pairs) > 1)
        return reply

    @staticmethod
    def _reply(request: Request, pair: Pair, end: End) -> Reply:
        answer = Answer(request.id, index=pair.other(end).slot, side=int(end == pair.high))
        return Reply(answer, pair.side(end))

    # --- a predecessor's ------------------------------------------------------------------------

    def restore(self, regions: Mapping[str, int]) -> None:
        """Go on with the pairs whose ports are still what they were; the fds are taken.

        ``regions``: those with PAIR_PREFIX. Once, when the applier has adopted.
        """
        left: dict[str, dict[int, int]] = {}
        for name, fd in regions.items():
            key, _, number = name.rpartition("/")
            left.setdefault(key, {})[int(number)] = fd
        for key, fds in left.items():
            pair = _pair_of(key, tuple(fds[number] for number in sorted(fds)))
            ends = (pair.low, pair.high)
            with contextlib.suppress(NativeError):
                if all(self._applier.port_slots.get(end.name) == end.slot for end in ends):
                    self._applier.engine.pair_add(pair.low.slot, pair.high.slot, pair.fds[0])
                if all(self._end(end.name) == end for end in ends):
                    self._pairs[ends] = pair
                    continue
            self._forget(pair)
        self._applier.engine.pairs_retain()
        self.settle()
        self._silence()

    @property
    def regions(self) -> dict[str, int]:
        """For a new keeper."""
        return {
            f"{pair.key}/{number}": fd
            for pair in self._pairs.values()
            for number, fd in enumerate(pair.fds)
        }


def _pair_of(key: str, fds: tuple[int, ...]) -> Pair:
    words = key.removeprefix(PAIR_PREFIX).split("|")
    low, high = (End(int(slot), name, int(inode)) for slot, inode, name in (words[:3], words[3:]))
    return Pair(low, high, fds)
