"""Pipes between netmap programs: "valeS:P{x" is the master's end, "valeS:P}x" the slave's, whether
or not the port is open; "P{x" and "P}x" without a switch. And monitors of their ends.

A pipe is one memory with lanes for both directions (client_memory.h), made with the first end and
gone with the last. No frame of it passes here. A ring that is full makes its sender wait, and an
end that comes later finds what was sent. Each end's sessions keep all fds of the pipe, so the next
forwarder finds it by any of them.

A monitor of an end gets the memory and no bells: it reads the lanes beside the pipe's programs
(fastpath/client/watch.c).
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass, field

import msgspec

from fastpath import client_names as names
from fastpath import native_clients as wire
from fastpath import native_links
from fastpath.channel import close_all
from fastpath.client_names import RequestError
from fastpath.client_ports import Places
from fastpath.client_sessions import Reading, Session, check_sharing
from fastpath.native_clients import Answer, Request

_NAME = re.compile(r"([^{}]*)([{}])([A-Za-z0-9_]+)")
MASTER, SLAVE = 0, 1  # sides of the memory
PIPE_BYTES = 1 << 20  # of the lanes of one direction, together


def is_pipe(name: str) -> bool:
    """Is it a pipe's end that is named so?"""
    return "{" in name or "}" in name


def _parts(name: str) -> tuple[str, str, int]:
    """Of an end's name: the switch of the port beside it, the master's name, and the side."""
    parts = _NAME.fullmatch(name)
    if parts is None:
        raise RequestError(errno.EINVAL)
    switch = names.pipe_parent(parts[1])
    return switch, f"{parts[1]}{{{parts[3]}", SLAVE if parts[2] == "}" else MASTER


@dataclass(slots=True, eq=False)
class Pipe:
    """``rings``: that the master sends by, and receives by; ``ends``: sessions by number."""

    fds: list[int]
    rings: tuple[int, int]
    ends: tuple[dict[int, Session], dict[int, Session]] = field(default_factory=lambda: ({}, {}))

    @property
    def sessions(self) -> list[Session]:
        return [session for end in self.ends for session in end.values()]


class Pipes:
    """The kind of sessions that are ends of pipes (``Kind`` of client_sessions.py)."""

    name = "pipe"

    def __init__(self, places: Places) -> None:
        self._places = places
        self._pipes: dict[str, Pipe] = {}  # by "valeS:P{x"

    def find(self, name: str) -> Pipe | None:
        """By the master's name."""
        return self._pipes.get(name)

    # --- life -----------------------------------------------------------------------------------

    def open(self, session: Session, request: Request) -> None:
        switch, name, side = _parts(request.name)
        self._places.admit(switch, session.uid, session.gid)
        pipe = self._pipes.get(name)
        rings = (
            names.within(request.tx_rings, 1, 1, names.RINGS_MAX),
            names.within(request.rx_rings, 1, 1, names.RINGS_MAX),
        )
        if pipe is not None:
            rings = pipe.rings if side == MASTER else (pipe.rings[1], pipe.rings[0])
            _check_user(session, pipe)
            check_sharing(session, request, pipe.ends[side].values())
        names.check_mode(request, *rings)
        if pipe is None:
            pipe = self._make(name, rings if side == MASTER else (rings[1], rings[0]))
        self._fill(session, request, pipe, side, rings, switch, name)
        pipe.ends[side][session.id] = session

    def _make(self, name: str, rings: tuple[int, int]) -> Pipe:
        pipe = self._pipes[name] = Pipe(native_links.make("pipe", rings, PIPE_BYTES), rings)
        return pipe

    def _fill(
        self,
        session: Session,
        request: Request,
        pipe: Pipe,
        side: int,
        rings: tuple[int, int],
        switch: str,
        name: str,
    ) -> None:
        first = next(iter(pipe.ends[side].values()), None)
        tx_slots, rx_slots = _slots(request, first, next(iter(pipe.ends[1 - side].values()), None))
        session.state = msgspec.structs.replace(
            session.state,
            kind=self.name,
            switch=switch,
            tx_rings=rings[0],
            rx_rings=rings[1],
            tx_slots=tx_slots,
            rx_slots=rx_slots,
            mem_id=first.state.mem_id if first is not None else request.mem_id,
            shared=first is not None,
            memory=os.fstat(pipe.fds[0]).st_ino,
            extra={"pipe": name, "side": str(side)},
        )

    def restore(self, session: Session, fds: list[int]) -> None:
        state = session.state
        name, side = state.extra.get("pipe", ""), _side(session)
        pipe = self._pipes.get(name)
        if pipe is None:
            rings = (state.tx_rings, state.rx_rings)
            pipe = Pipe(fds, rings if side == MASTER else (rings[1], rings[0]))
            self._pipes[name] = pipe
        else:
            close_all(fds)
        pipe.ends[side][session.id] = session

    def ready(self, session: Session) -> bool:
        return True

    def valid(self, session: Session) -> bool:
        return self._places.may(session.state.switch, session.uid, session.gid)

    def close(self, session: Session) -> None:
        name = session.state.extra["pipe"]
        pipe = self._pipes[name]
        pipe.ends[_side(session)].pop(session.id, None)
        if not pipe.sessions:
            del self._pipes[name]
            close_all(pipe.fds)

    def evict(self, session: Session) -> list[Session]:
        """All of this end; the other one goes on alone."""
        return list(self._pipe(session).ends[_side(session)].values())

    # --- what it is -----------------------------------------------------------------------------

    def _pipe(self, session: Session) -> Pipe:
        return self._pipes[session.state.extra["pipe"]]

    def fds(self, session: Session) -> list[int]:
        return native_links.side(self._pipe(session).fds, _side(session))

    def kept(self, session: Session) -> list[int]:
        return self._pipe(session).fds

    def describe(self, session: Session, answer: Answer) -> None:
        answer.side = _side(session)

    def mode(self, session: Session) -> str:
        return self.name

    def reading(self, session: Session) -> Reading:
        """Nothing of a pipe is dropped."""
        memory = self._pipe(session).fds[0]
        out, into = native_links.counts(memory)
        if _side(session) == SLAVE:
            out, into = into, out
        return Reading(wire.view(memory), out.frames, out.bytes, into.frames, into.bytes, 0)


class PipeMonitors:
    """The kind of sessions that watch an end of a pipe. It is the pipe's user's, or root's: who
    has the memory could write there."""

    name = "pipe-monitor"

    def __init__(self, places: Places, pipes: Pipes) -> None:
        self._places = places
        self._pipes = pipes
        self._memories: dict[int, int] = {}  # of sessions: an fd of their own

    def open(self, session: Session, request: Request) -> None:
        switch, name, side = _parts(request.name)
        self._places.admit(switch, session.uid, session.gid)
        pipe = self._pipes.find(name)
        if pipe is None:
            raise RequestError(errno.ENXIO)
        if session.uid != 0 and any(end.uid != session.uid for end in pipe.sessions):
            raise RequestError(errno.EACCES)
        rings = pipe.rings if side == MASTER else (pipe.rings[1], pipe.rings[0])
        names.check_mode(request, *rings)
        end = pipe.sessions[0].state
        session.state = msgspec.structs.replace(
            session.state,
            kind=self.name,
            switch=switch,
            tx_rings=1,
            rx_rings=max(rings),
            tx_slots=_within(request.tx_slots or end.tx_slots),
            rx_slots=_within(request.rx_slots or end.rx_slots),
            mem_id=request.mem_id,
            memory=os.fstat(pipe.fds[0]).st_ino,
            extra={"pipe": name, "side": str(side)},
        )
        self._memories[session.id] = os.dup(pipe.fds[0])

    def restore(self, session: Session, fds: list[int]) -> None:
        self._memories[session.id], *more = fds
        close_all(more)

    def ready(self, session: Session) -> bool:
        return True

    def valid(self, session: Session) -> bool:
        """As long as its pipe is."""
        state = session.state
        pipe = self._pipes.find(state.extra["pipe"])
        return (
            pipe is not None
            and os.fstat(pipe.fds[0]).st_ino == state.memory
            and self._places.may(state.switch, session.uid, session.gid)
        )

    def close(self, session: Session) -> None:
        os.close(self._memories.pop(session.id))

    def evict(self, session: Session) -> list[Session]:
        return [session]

    def fds(self, session: Session) -> list[int]:
        return [self._memories[session.id]]

    def kept(self, session: Session) -> list[int]:
        return [self._memories[session.id]]

    def describe(self, session: Session, answer: Answer) -> None:
        answer.side = _side(session)

    def mode(self, session: Session) -> str:
        return "monitor"

    def reading(self, session: Session) -> Reading:
        """It writes nowhere, not even what it has seen."""
        return Reading()


def _slots(request: Request, mine: Session | None, other: Session | None) -> tuple[int, int]:
    """tx and rx, as the end that was first has them: what one sends by, the other receives by."""
    if mine is not None:
        return mine.state.tx_slots, mine.state.rx_slots
    if other is not None:
        return other.state.rx_slots, other.state.tx_slots
    return _within(request.tx_slots), _within(request.rx_slots)


def _within(slots: int) -> int:
    return names.within(slots, names.SLOTS, names.SLOTS_MIN, names.SLOTS_MAX)


def _side(session: Session) -> int:
    return SLAVE if session.state.extra.get("side") == str(SLAVE) else MASTER


def _check_user(session: Session, pipe: Pipe) -> None:
    """Both ends are one user's, as all sessions of a port are; root may join."""
    if session.uid != 0 and any(other.uid != session.uid for other in pipe.sessions):
        raise RequestError(errno.EBUSY)
