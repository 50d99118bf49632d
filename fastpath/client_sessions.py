"""Sessions of netmap programs: what one open of /dev/netmap is bound to, and the memories that the
programs brought.

A session lives as long as its connection, which is longer than this process: the keeper has the
connection's fd, the memory's and those of what only the session has, and the state as a text.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from fastpath import channel
from fastpath import client_names as names
from fastpath import native_clients as wire
from fastpath.channel import Send, close_all, peer_credentials
from fastpath.client_names import RequestError
from fastpath.native_clients import Answer, Request, View

STATE_BYTES_MAX = 4096
NOTHING = View()
MEM_ID_SHARED = 1  # of each user: netmap's region of all hardware ports
MEM_ID_FIRST = 2
MEM_ID_MAX = 0xFFFF


class State(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a successor has to know of a session. ``kind``: who serves it; ``memory``: inode of the
    port's memory that the program has; ``request``: id of the request that made it."""

    kind: str
    request: int
    name: str
    program: str
    connected_at: float
    mode: int
    ring_id: int
    flags: int
    switch: str = ""
    port: str = ""
    tx_rings: int = 0
    rx_rings: int = 0
    tx_slots: int = 0
    rx_slots: int = 0
    mem_id: int = 0
    shared: bool = False
    memory: int = 0
    hdr_len: int = 0
    extra: dict[str, str] = {}  # of its kind


@dataclass(slots=True, eq=False)
class Session:
    """``sock`` is the connection; who made it is told by the kernel."""

    id: int
    sock: socket.socket
    pid: int
    uid: int
    gid: int
    state: State


def check_sharing(session: Session, request: Request, users: Iterable[Session]) -> None:
    """A port or a pipe's end that is open: to the same user only, and to nobody where one wants
    to be alone."""
    mine = names.rings_of(request.mode, request.ring_id, request.flags)
    for other in users:
        state = other.state
        theirs = names.rings_of(state.mode, state.ring_id, state.flags)
        alone = (request.flags | state.flags) & wire.EXCLUSIVE
        if other.uid != session.uid:
            raise RequestError(errno.EBUSY)
        if alone and any(a & b for a, b in zip(mine, theirs, strict=True)):
            raise RequestError(errno.EBUSY)
        if request.mem_id and request.mem_id != state.mem_id:
            raise RequestError(errno.EINVAL)


@dataclass(frozen=True, slots=True)
class Reading:
    """What went through a session's port or pipe, from the program's side and to it."""

    view: View = NOTHING
    frames_from: int = 0
    bytes_from: int = 0
    frames_to: int = 0
    bytes_to: int = 0
    drops: int = 0


class Kind(Protocol):
    """Serves the sessions of one kind: ports of switches, monitors, pipes.

    A session begins with ``open``, which fills in its state as far as it is known, or raises
    RequestError. ``ready`` is asked from then on: True, and the state is complete; RequestError: it
    will not be. ``close`` ends it, whatever it came to. ``restore`` is ``open`` of what a
    predecessor left; ``valid`` is asked of sessions in force, False ends them.

    ``fds`` go to the program, ``kept`` ones to the keeper. ``evict`` takes the port away and says
    which sessions end with it.
    """

    name: str

    def open(self, session: Session, request: Request) -> None: ...
    def restore(self, session: Session, fds: list[int]) -> None: ...
    def ready(self, session: Session) -> bool: ...
    def valid(self, session: Session) -> bool: ...
    def close(self, session: Session) -> None: ...
    def fds(self, session: Session) -> list[int]: ...
    def kept(self, session: Session) -> list[int]: ...
    def describe(self, session: Session, answer: Answer) -> None: ...
    def mode(self, session: Session) -> str: ...
    def reading(self, session: Session) -> Reading: ...
    def evict(self, session: Session) -> list[Session]: ...


@dataclass(slots=True)
class _Region:
    fd: int
    users: int = 0


@dataclass(slots=True)
class Regions:
    """Memories of programs, by user and number. Never mapped here.

    The number is the user's to share among its own programs; nobody else gets the fd by it.
    """

    _regions: dict[tuple[int, int], _Region] = field(default_factory=dict)

    def fd(self, uid: int, mem_id: int) -> int:
        """RequestError: the user has no such memory."""
        region = self._regions.get((uid, mem_id))
        if region is None:
            raise RequestError(errno.EINVAL)
        return region.fd

    def enter(self, uid: int, mem_id: int, fds: list[int]) -> int:
        """One more session uses the memory ``mem_id``, 0: the one whose fd comes along.

        Returns its number; takes that fd, or leaves what it does not need in ``fds``.
        """
        number = mem_id or self._free()
        region = self._regions.get((uid, number))
        if region is None:
            if mem_id > MEM_ID_SHARED or not fds:
                raise RequestError(errno.EINVAL)
            region = self._regions[uid, number] = _Region(fds.pop(0))
        region.users += 1
        return number

    def restore(self, uid: int, mem_id: int, fd: int) -> None:
        """As ``enter``, with the number that a predecessor gave; takes the fd."""
        region = self._regions.get((uid, mem_id))
        if region is None:
            region = self._regions[uid, mem_id] = _Region(fd)
        else:
            os.close(fd)
        region.users += 1

    def leave(self, uid: int, mem_id: int) -> None:
        region = self._regions[uid, mem_id]
        region.users -= 1
        if not region.users:
            os.close(region.fd)
            del self._regions[uid, mem_id]

    def _free(self) -> int:
        taken = {number for _, number in self._regions}
        number = next((n for n in range(MEM_ID_FIRST, MEM_ID_MAX) if n not in taken), None)
        if number is None:
            raise RequestError(errno.ENOMEM)
        return number


class Sessions:
    """All that are in force, by number, here and at the keeper."""

    def __init__(self, send: Send, restarts: int) -> None:
        self._send = send
        self._sessions: dict[int, Session] = {}
        # No number is given twice, as far as a forwarder's number of sessions reaches.
        self._last_id = restarts * 100_000 % (1 << 31)
        self.regions = Regions()

    def __iter__(self) -> Iterator[Session]:
        return iter(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, id: int) -> Session | None:
        return self._sessions.get(id)

    def next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    def add(self, session: Session, kind: Kind) -> None:
        """In force from now on, and kept."""
        self._sessions[session.id] = session
        self.keep(session, kind)

    def keep(self, session: Session, kind: Kind) -> None:
        """Give the keeper what a successor needs; again when the state changed."""
        self.give(self._send, session, kind)

    def give(
        self, send: Callable[[channel.Message, list[int]], object], session: Session, kind: Kind
    ) -> None:
        message = channel.Session(session.id, msgspec.json.encode(session.state).decode())
        region = self.regions.fd(session.uid, session.state.mem_id)
        send(message, [session.sock.fileno(), region, *kind.kept(session)])

    def forget(self, id: int) -> None:
        """It could not be restored."""
        session = self._sessions.pop(id, None)
        if session is not None:
            self.regions.leave(session.uid, session.state.mem_id)
            session.sock.close()
        self._send(channel.SessionGone(id), [])

    def remove(self, session: Session) -> None:
        if self._sessions.pop(session.id, None) is not None:
            self._send(channel.SessionGone(session.id), [])
            self.regions.leave(session.uid, session.state.mem_id)

    def restore(self, left: Left, kinds: Mapping[str, Kind]) -> Session:
        """Go on with a predecessor's; takes the fds. ValueError: it makes no sense."""
        kind = kinds.get(left.state.kind)
        if kind is None or left.id in self._sessions:
            close_all(left.fds)
            raise ValueError(f"of kind {left.state.kind!r}")
        connection, region, *rest = left.fds
        try:
            sock = socket.socket(fileno=connection)
        except OSError as error:
            close_all(left.fds)
            raise ValueError(str(error)) from error
        try:
            sock.setblocking(False)
            pid, uid, gid = peer_credentials(sock)
        except OSError as error:
            sock.close()
            close_all([region, *rest])
            raise ValueError(str(error)) from error
        session = Session(left.id, sock, pid, uid, gid, left.state)
        self.regions.restore(uid, left.state.mem_id, region)
        self._sessions[session.id] = session
        self._last_id = max(self._last_id, session.id)
        kind.restore(session, rest)
        return session


@dataclass(frozen=True, slots=True)
class Left:
    """A session as a predecessor left it: connection, memory, what its kind kept."""

    id: int
    state: State
    fds: list[int]


def left(message: channel.Session, fds: list[int]) -> Left | None:
    """None: it makes no sense (and the fds are closed)."""
    try:
        state = msgspec.json.decode(message.state.encode(), type=State)
    except msgspec.DecodeError:
        state = None
    if state is None or len(fds) < 2:
        close_all(fds)
        return None
    return Left(message.id, state, fds)
