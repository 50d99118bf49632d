"""What netmap programs ask over their connections (client_wire.h), and what they are answered.

A registration waits for its port's device; everything else is answered at once. Requests of other
kinds of sessions (pipes, pairs) are handled where those are: see ``Requests.kinds`` and
``Requests.serve``.
"""

from __future__ import annotations

import errno
import logging
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import msgspec

from fastpath import client_names as names
from fastpath import client_quotas
from fastpath import native_clients as wire
from fastpath.client_names import RequestError
from fastpath.client_nulls import Nulls
from fastpath.client_pipes import PipeMonitors, Pipes, is_pipe
from fastpath.client_ports import CLIENT, Monitors, Places, Ports, rings_of, vale_name
from fastpath.client_sessions import Kind, Left, Session, Sessions, State
from fastpath.native_clients import Answer, Request
from fastpath.protocol import WirePort

READY_S = 5.0
NO_PORT = 255  # netmap's word for a port that its switch does not have

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Reply:
    """The fds stay the switch's."""

    answer: Answer
    fds: list[int]


@dataclass(slots=True)
class _Pending:
    """A registration that waits for its port."""

    session: Session
    request: Request
    kind: Kind
    deadline: float


@dataclass(frozen=True, slots=True)
class Asker:
    """A connection as requests see it. ``session``: what it is bound to."""

    sock: socket.socket
    pid: int
    uid: int
    gid: int
    session: Session | None


class Requests:
    """``bound(session, reply)`` hears what became of a registration, ``ended(session)`` of sessions
    that end though their connection does not."""

    def __init__(
        self,
        places: Places,
        sessions: Sessions,
        limits: Mapping[str, int],
        bound: Callable[[Session, Reply], None],
        ended: Callable[[Session], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._places = places
        self.sessions = sessions
        self._bound = bound
        self._ended = ended
        self._now = now
        self._limits = limits
        self._ports = Ports(places)
        self._monitors = Monitors(places, self._ports)
        self._pipes = Pipes(places)
        self._pipe_monitors = PipeMonitors(places, self._pipes)
        self._nulls = Nulls()
        self.kinds: dict[str, Kind] = {
            "port": self._ports,
            "monitor": self._monitors,
            "pipe": self._pipes,
            PipeMonitors.name: self._pipe_monitors,
            "null": self._nulls,
        }
        self.serve: dict[int, Callable[[Asker, Request], Reply]] = {
            wire.DESCRIBE: self._describe,
            wire.INFO: self._info,
            wire.LIST: self._list,
            wire.HDR_SET: self._set_header,
            wire.HDR_GET: self._get_header,
            wire.REGION: self._region,
            wire.ALIVE: self._alive,
        }
        self._pending: dict[int, _Pending] = {}

    def kind_of(self, session: Session) -> Kind:
        return self.kinds[session.state.kind]

    def _kind_for(self, request: Request) -> Kind:
        """Who serves a registration."""
        if request.flags & names.MONITOR and request.mode != wire.MODE_NULL:
            return self._pipe_monitors if is_pipe(request.name) else self._monitors
        if request.mode == wire.MODE_NULL:
            return self._nulls
        return self._pipes if is_pipe(request.name) else self._ports

    # --- registrations --------------------------------------------------------------------------

    def register(self, asker: Asker, request: Request, fds: list[int]) -> Reply | None:
        """None: the answer comes later. Takes of the fds what it needs."""
        if asker.session is not None:
            if request.id != asker.session.state.request:
                raise RequestError(errno.EBUSY)
            return self._reply(asker.session, request.id)
        kind = self._kind_for(request)
        self._check_quota(asker.uid, kind, request)
        session = Session(
            self.sessions.next_id(), asker.sock, asker.pid, asker.uid, asker.gid, _state(request)
        )
        kind.open(session, request)
        try:
            mem_id = self.sessions.regions.enter(session.uid, session.state.mem_id, fds)
        except RequestError:
            kind.close(session)
            raise
        session.state = msgspec.structs.replace(session.state, mem_id=mem_id)
        pending = _Pending(session, request, kind, self._now() + READY_S)
        self._pending[session.id] = pending
        self.settle()
        return None

    def _check_quota(self, uid: int, kind: Kind, request: Request) -> None:
        waiting = (pending.session for pending in self._pending.values())
        mine = [s for s in (*self.sessions, *waiting) if s.uid == uid]
        client_quotas.check(self._limits, mine, kind.name, request)

    def _reply(self, session: Session, id: int) -> Reply:
        """Of a session in force."""
        state = session.state
        kind = self.kind_of(session)
        answer = Answer(
            id=id,
            session=session.id,
            name=state.name,
            mode=state.mode,
            ring_id=state.ring_id,
            flags=state.flags,
            tx_rings=state.tx_rings,
            rx_rings=state.rx_rings,
            tx_slots=state.tx_slots,
            rx_slots=state.rx_slots,
            mem_id=state.mem_id,
            shared=int(state.shared),
        )
        kind.describe(session, answer)
        region = [self.sessions.regions.fd(session.uid, state.mem_id)] if state.shared else []
        return Reply(answer, [*region, *kind.fds(session)])

    def settle(self) -> None:
        """Answer registrations whose ports are there by now, or will not be."""
        for pending in list(self._pending.values()):
            session = pending.session
            if session.id not in self._pending:
                continue
            try:
                if pending.kind.ready(session):
                    del self._pending[session.id]
                    self.sessions.add(session, pending.kind)
                    self._bound(session, self._reply(session, pending.request.id))
                elif self._now() >= pending.deadline:
                    raise RequestError(errno.ENXIO)
            except RequestError as error:
                self.abandon(session)
                self._bound(session, Reply(Answer(pending.request.id, error.errno), []))

    @property
    def due(self) -> float:
        """When the first registration has waited too long."""
        return min((p.deadline for p in self._pending.values()), default=float("inf"))

    def hang_up(self, sock: socket.socket) -> None:
        """Nobody waits for that connection's registration any more."""
        for pending in list(self._pending.values()):
            if pending.session.sock is sock:
                self.abandon(pending.session)

    def abandon(self, session: Session) -> None:
        """The session ends, in force or not."""
        pending = self._pending.pop(session.id, None)
        kind = self.kind_of(session)
        if pending is not None:
            self.sessions.regions.leave(session.uid, session.state.mem_id)
        else:
            self.sessions.remove(session)
        kind.close(session)

    # --- sessions in force ----------------------------------------------------------------------

    def restore(self, left: Iterable[Left]) -> list[Session]:
        """Go on with those of a predecessor, before its ports are looked at."""
        restored = []
        for one in left:
            try:
                restored.append(self.sessions.restore(one, self.kinds))
            except Exception:  # one session's state must not keep the forwarder from frames
                log.exception("session %d cannot go on", one.id)
                self.sessions.forget(one.id)
        return restored

    def check(self) -> None:
        """End the sessions whose port is gone, or whose user may have it no more."""
        for session in list(self.sessions):
            if self.sessions.get(session.id) is session and not self.kind_of(session).valid(
                session
            ):
                self.end(session)

    def evict(self, id: int) -> bool:
        """End a session and those that share its port; False: there is none."""
        session = self.sessions.get(id)
        if session is None:
            return False
        for one in self.kind_of(session).evict(session):
            self.end(one)
        return True

    def end(self, session: Session) -> None:
        self.abandon(session)
        self._ended(session)

    # --- everything else ------------------------------------------------------------------------

    def _describe(self, asker: Asker, request: Request) -> Reply:
        if asker.session is None:
            raise RequestError(errno.ENXIO)
        reply = self._reply(asker.session, request.id)
        if not asker.session.state.shared:
            region = self.sessions.regions.fd(asker.session.uid, asker.session.state.mem_id)
            return Reply(reply.answer, [region, *reply.fds])
        return reply

    def _info(self, asker: Asker, request: Request) -> Reply:
        if is_pipe(request.name):
            switch = names.pipe_parent(re.split("[{}]", request.name, maxsplit=1)[0])
        else:
            switch, _ = names.vale(request.name)
        self._places.admit(switch, asker.uid, asker.gid)
        answer = Answer(
            request.id,
            name=request.name,
            tx_rings=1,
            rx_rings=1,
            tx_slots=names.SLOTS,
            rx_slots=names.SLOTS,
        )
        port = self._places.find(request.name)
        if port is not None and port.type == CLIENT:
            answer.tx_rings, answer.rx_rings = rings_of(port)
            for session in self._ports.users(port.name):
                answer.tx_slots = session.state.tx_slots
                answer.rx_slots = session.state.rx_slots
                answer.mem_id = session.state.mem_id if session.uid == asker.uid else 0
        return Reply(answer, [])

    def _list(self, asker: Asker, request: Request) -> Reply:
        """A port by its name, or the next one in the order of numbers."""
        applier = self._places.applier
        rows = sorted(
            (applier.bridge_slots[switch], applier.port_slots[port.name], vale_name(port))
            for port in applier.wanted.ports.values()
            if (switch := port.bridge) is not None
            and names.is_switch(switch)
            and applier.in_force(port.name)
            and self._places.may(switch, asker.uid, asker.gid)
        )
        if request.name:
            return self._numbers(request, rows)
        for switch_index, index, name in rows:
            if (switch_index, index) >= (request.switch_index, request.index):
                found = Answer(request.id, name=name, switch_index=switch_index, index=index)
                return Reply(found, [])
        raise RequestError(errno.ENOENT)

    @staticmethod
    def _numbers(request: Request, rows: list[tuple[int, int, str]]) -> Reply:
        """Of a port; of a switch whose port nobody knows, its own."""
        switch = request.name.partition(":")[0]
        for switch_index, index, name in rows:
            if name == request.name:
                found = Answer(request.id, name=name, switch_index=switch_index, index=index)
                return Reply(found, [])
        for switch_index, _, name in rows:
            if name.partition(":")[0] == switch:
                found = Answer(
                    request.id, name=request.name, switch_index=switch_index, index=NO_PORT
                )
                return Reply(found, [])
        raise RequestError(errno.ENOENT)

    def _client_port(self, asker: Asker, request: Request) -> WirePort:
        """The port whose header is meant: the named one, which is the asker's user's."""
        switch, _ = names.vale(request.name)
        self._places.admit(switch, asker.uid, asker.gid)
        port = self._places.find(request.name)
        if port is None or port.type != CLIENT:
            raise RequestError(errno.ENXIO)
        if any(session.uid != asker.uid for session in self._ports.users(port.name)):
            raise RequestError(errno.EACCES)
        return port

    def _set_header(self, asker: Asker, request: Request) -> Reply:
        port = self._client_port(asker, request)
        self._ports.set_header(port.name, request.hdr_len)
        for session in self._ports.users(port.name):
            if self.sessions.get(session.id) is session:
                self.sessions.keep(session, self._ports)
        return self._header(request, port)

    def _get_header(self, asker: Asker, request: Request) -> Reply:
        return self._header(request, self._client_port(asker, request))

    def _header(self, request: Request, port: WirePort) -> Reply:
        hdr_len = self._ports.header(port.name)
        return Reply(Answer(request.id, name=request.name, hdr_len=hdr_len), [])

    def _region(self, asker: Asker, request: Request) -> Reply:
        fd = self.sessions.regions.fd(asker.uid, request.mem_id)
        return Reply(Answer(request.id, mem_id=request.mem_id), [fd])

    def _alive(self, asker: Asker, request: Request) -> Reply:
        session = self.sessions.get(request.index)
        if session is None or session.uid != asker.uid:
            raise RequestError(errno.ENXIO)
        return Reply(Answer(request.id, session=session.id), [])


def _state(request: Request) -> State:
    """What a session's state has of its request."""
    return State(
        kind="port",
        request=request.id,
        name=request.name,
        program=request.program,
        connected_at=time.time(),
        mode=request.mode,
        ring_id=request.ring_id,
        flags=request.flags,
    )
