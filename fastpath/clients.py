"""Netmap programs: their connections to netmap.sock, and how much of the control thread they get.

Nothing here waits, and nothing a program does is an exception: a packet that is none of
client_wire.h ends its connection, everything else is an errno. A connection has one request at a
time, and no further one before it has read the answer; connections are served in turns, a bounded
number of requests between two looks at everything else the control thread does. Their fds are in an
epoll of their own for that.

Whatever fd a program sends along is not touched but to see whether it is a memory: closing a file
of a file system that the program itself serves may wait for ever, so another thread does that.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import heapq
import logging
import queue
import select
import selectors
import socket
import termios
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from fastpath import channel
from fastpath import native_clients as wire
from fastpath.apply import Applier
from fastpath.channel import Channel, Send, close_all, is_memory, peer_credentials
from fastpath.client_names import RequestError
from fastpath.client_ports import Places
from fastpath.client_requests import Asker, Reply, Requests
from fastpath.client_sessions import Left, Session, Sessions
from fastpath.native import NativeError
from fastpath.native_clients import Answer, Request
from fastpath.pairs import Pairs
from fastpath.protocol import ClientRow, ClientRows

TURN = 32  # requests, or new connections, between two looks at everything else
ACCEPTS = 16  # of a turn
UNREAD_S = 0.01  # somebody who has not read the answer is asked again after that
NO_FDS_S = 0.1
ROWS_MAX = 1024
FOREIGN_MAX = 256  # fds that wait to be closed elsewhere; more: connections are refused

log = logging.getLogger(__name__)


class Rate:
    """So many a second, as many at once."""

    def __init__(self, per_s: int) -> None:
        self._gap_s = 1.0 / per_s
        self._burst_s = 1.0
        self._next = 0.0

    def take(self, now: float) -> float:
        """Seconds to wait before the next one; 0: it was taken."""
        wait = self._next - self._burst_s - now
        if wait > 0:
            return wait
        self._next = max(self._next, now) + self._gap_s
        return 0.0


class Closer:
    """Closes fds that may take their time."""

    def __init__(self) -> None:
        self._fds: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def stuck(self) -> bool:
        return self._fds.qsize() > FOREIGN_MAX

    def close(self, fds: Iterable[int]) -> None:
        for fd in fds:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._fds.put(fd)

    def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError):
                close_all([self._fds.get()])


@dataclass(slots=True, eq=False)
class Connection:
    """``answer`` waits to be sent, ``held`` to be served; ``session`` is what it is bound to.

    Requests are taken out of the socket also while none is served: a program that sends its own fd
    along would keep the connection from ending for as long as it lies there.
    """

    sock: socket.socket
    pid: int
    uid: int
    gid: int
    rate: Rate
    session: Session | None = None
    registering: bool = False
    held: tuple[Request, list[int]] | None = None
    answer: tuple[bytes, list[int]] | None = None
    interest: int = select.EPOLLIN


class Clients:
    """Serves ``listener`` from ``selector``'s events. Call :meth:`restore` before the applier
    adopts, :meth:`settle` when something may have come to be, :meth:`tick` once a second."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        listener: socket.socket,
        applier: Applier,
        send: Send,
        limits: Mapping[str, int],
        owners: Collection[int],
        restarts: int = 0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._limits = limits
        self._now = now
        self.sessions = Sessions(send, restarts)
        self.requests = Requests(
            Places(applier, owners), self.sessions, limits, self._bound, self._ended, now
        )
        self._applier = applier
        self.pairs = Pairs(applier, send)
        applier.foresee = self.pairs.foresee
        self.requests.serve |= {
            wire.PEER: self.pairs.peer,
            wire.NEWS: self.pairs.news,
            wire.FDB: self.pairs.fdb,
        }
        self._checked = -1
        self.connections: dict[int, Connection] = {}  # by fd
        self._of_user: Counter[int] = Counter()
        self._opens: dict[int, Rate] = {}  # by user
        self._later: list[tuple[float, int, int]] = []  # when, order, fd: listen to it again
        self._order = 0
        self._closer = Closer()
        self._selector = selector
        self._epoll = select.epoll()
        listener.setblocking(False)
        self._epoll.register(listener, select.EPOLLIN)
        selector.register(self._epoll, selectors.EVENT_READ, lambda _: self.serve())

    def close(self) -> None:
        """Drop everybody; the listener is the caller's."""
        for connection in list(self.connections.values()):
            self._drop(connection)
        self._selector.unregister(self._epoll)
        self._epoll.close()

    # --- what the forwarder calls ---------------------------------------------------------------

    def restore(self, left: Iterable[Left]) -> None:
        """Go on with a predecessor's sessions, before the applier looks for their ports."""
        for session in self.requests.restore(left):
            connection = self._add(session.sock, session.pid, session.uid, session.gid)
            connection.session = session

    def hand_over(self, keeper: Channel) -> None:
        """Everything that a new keeper has to keep."""
        for session in self.sessions:
            self.sessions.give(keeper.send, session, self.requests.kind_of(session))
        for name, fd in self.pairs.regions.items():
            keeper.send(channel.Region(name), [fd])

    def settle(self) -> None:
        """After anything that the applier did."""
        self.requests.settle()
        if self._applier.generation != self._checked:
            self._checked = self._applier.generation
            self.requests.check()
        self.pairs.settle()

    def tick(self) -> None:
        self.requests.settle()
        self.requests.check()
        for uid in self._opens.keys() - self._of_user.keys():
            if not self._opens[uid].take(self._now()):
                del self._opens[uid]

    @property
    def due(self) -> float:
        """When :meth:`wake` has something to do."""
        if self.pairs.unsettled:
            return 0.0
        later = self._later[0][0] if self._later else float("inf")
        return min(later, self.requests.due)

    def wake(self) -> None:
        """Listen again to those that had to wait."""
        now = self._now()
        while self._later and self._later[0][0] <= now:
            fd = heapq.heappop(self._later)[2]
            if fd == self._listener.fileno():
                self._epoll.modify(fd, select.EPOLLIN)
            elif fd in self.connections:
                self._resume(self.connections[fd])
        if self.requests.due <= now:
            self.requests.settle()
        if self.pairs.unsettled:
            self.pairs.settle()

    # --- turns ----------------------------------------------------------------------------------

    def serve(self) -> None:
        """Some of what there is to do; epoll tells the others' next time."""
        for fd, events in self._epoll.poll(0, TURN):
            connection = self.connections.get(fd)
            if fd == self._listener.fileno():
                self._accept()
            elif connection is not None:
                try:
                    self._attend(connection, events)
                except Exception:
                    self._fail(connection)

    def _fail(self, connection: Connection) -> None:
        """A mistake of ours costs the one whose request it was."""
        log.exception("a netmap program's connection")
        with contextlib.suppress(Exception):
            self._drop(connection)

    def _attend(self, connection: Connection, events: int) -> None:
        if events & (select.EPOLLHUP | select.EPOLLERR):
            self._drop(connection)  # nobody would read an answer
        elif connection.answer is not None:
            self._send(connection, *connection.answer)
        else:
            self._receive(connection)
            self._serve_held(connection)

    def _serve_held(self, connection: Connection) -> None:
        """What was received, now or later."""
        if connection.held is None:
            return
        wait = UNREAD_S if _unread(connection.sock) else connection.rate.take(self._now())
        if wait:
            self._pause(connection, wait)
            return
        held, connection.held = connection.held, None
        try:
            self._handle(connection, *held)
        finally:
            close_all(held[1])  # but for those that were taken

    def _pause(self, connection: Connection, seconds: float) -> None:
        self._await(connection, 0)
        self._wake_at(connection.sock.fileno(), seconds)

    def _wake_at(self, fd: int, seconds: float) -> None:
        self._order += 1
        heapq.heappush(self._later, (self._now() + seconds, self._order, fd))

    def _resume(self, connection: Connection) -> None:
        """Serve what was held back, or listen."""
        if connection.held is None:
            self._listen(connection)
            return
        connection.registering = False
        try:
            self._receive(connection)
            self._serve_held(connection)
        except Exception:
            self._fail(connection)

    def _listen(self, connection: Connection) -> None:
        if connection.answer is not None:
            self._await(connection, select.EPOLLOUT)
        else:
            self._await(connection, 0 if connection.registering else select.EPOLLIN)

    def _await(self, connection: Connection, interest: int) -> None:
        if connection.interest != interest and connection.sock.fileno() in self.connections:
            connection.interest = interest
            self._epoll.modify(connection.sock, interest)

    # --- connections ----------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no fds or no memory left
                log.warning("no netmap program can be accepted: %s", error)
                self._epoll.modify(self._listener, 0)
                self._wake_at(self._listener.fileno(), NO_FDS_S)
                return
            pid, uid, gid = peer_credentials(sock)
            full = len(self.connections) >= self._limits["netmap_connections_max"]
            many = self._of_user[uid] >= self._limits["netmap_connections_user_max"]
            if full or many or self._closer.stuck:
                sock.close()
                continue
            sock.setblocking(False)
            self._add(sock, pid, uid, gid)

    def _add(self, sock: socket.socket, pid: int, uid: int, gid: int) -> Connection:
        rate = Rate(self._limits["netmap_requests_s"])
        connection = Connection(sock, pid, uid, gid, rate)
        self.connections[sock.fileno()] = connection
        self._of_user[uid] += 1
        self._epoll.register(sock, connection.interest)
        return connection

    def _drop(self, connection: Connection) -> None:
        """The last fd of it was closed, or it is not to go on."""
        fd = connection.sock.fileno()
        if self.connections.pop(fd, None) is None:
            return
        session, connection.session = connection.session, None
        self._of_user[connection.uid] -= 1
        if not self._of_user[connection.uid]:
            del self._of_user[connection.uid]
        self._epoll.unregister(fd)
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)  # the keeper has it, too
        try:
            if session is not None:
                self.requests.abandon(session)
            elif connection.registering:
                self.requests.hang_up(connection.sock)
        finally:
            for waiting in (connection.answer, connection.held):
                if waiting is not None:
                    close_all(waiting[1])
            connection.answer = connection.held = None
            connection.sock.close()

    def _ended(self, session: Session) -> None:
        """Its port was taken away."""
        connection = self.connections.get(session.sock.fileno())
        if connection is not None and connection.session is session:
            connection.session = None
            self._drop(connection)

    # --- requests and answers -------------------------------------------------------------------

    def _receive(self, connection: Connection) -> None:
        """One request, if there is any, to be held. It takes the place of one that is held already:
        programs repeat what is not answered."""
        room = socket.CMSG_SPACE(wire.FDS_MAX * 4)
        try:
            packet, ancillary, flags, _ = connection.sock.recvmsg(
                wire.REQUEST_BYTES + 1, room, socket.MSG_CMSG_CLOEXEC
            )
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection)
            return
        fds, foreign = _memories(ancillary)
        self._closer.close(foreign)
        request = wire.request(packet)
        if request is None or foreign or flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
            close_all(fds)
            self._drop(connection)
            return
        if connection.held is not None:
            close_all(connection.held[1])
        connection.held = (request, fds)

    def _handle(self, connection: Connection, request: Request, fds: list[int]) -> None:
        try:
            reply = self._answer(connection, request, fds)
        except RequestError as error:
            reply = Reply(Answer(request.id, error.errno), [])
        except NativeError as error:
            reply = Reply(Answer(request.id, error.code or errno.EIO), [])
        except KeyError:  # something of the port is not there (yet): as if it were not
            reply = Reply(Answer(request.id, errno.ENXIO), [])
        if reply is not None:
            self._send(connection, wire.pack(reply.answer), reply.fds)

    def _answer(self, connection: Connection, request: Request, fds: list[int]) -> Reply | None:
        if request.version != wire.VERSION:
            raise RequestError(errno.EPROTO)
        asker = Asker(
            connection.sock, connection.pid, connection.uid, connection.gid, connection.session
        )
        if request.type == wire.REGISTER:
            return self._register(connection, asker, request, fds)
        serve = self.requests.serve.get(request.type)
        if serve is None:
            raise RequestError(errno.EOPNOTSUPP)
        if fds:
            raise RequestError(errno.EINVAL)
        return serve(asker, request)

    def _register(
        self, connection: Connection, asker: Asker, request: Request, fds: list[int]
    ) -> Reply | None:
        """The answer may come while this still runs, by :meth:`_bound`.

        Ports cost more than other requests: there is a rate for each user.
        """
        opens = self._opens.setdefault(asker.uid, Rate(self._limits["netmap_opens_s"]))
        if wait := opens.take(self._now()):
            connection.registering = True
            connection.held = (request, fds.copy())
            fds.clear()
            self._pause(connection, wait)
            return None
        connection.registering = True
        try:
            reply = self.requests.register(asker, request, fds)
        except BaseException:
            connection.registering = False
            raise
        if reply is not None:
            connection.registering = False
        self._listen(connection)
        return reply

    def _bound(self, session: Session, reply: Reply) -> None:
        """A registration came to its end, well or not."""
        connection = self.connections.get(session.sock.fileno())
        if connection is None or connection.sock is not session.sock:
            return
        connection.registering = False
        connection.session = session if not reply.answer.error else None
        self._send(connection, wire.pack(reply.answer), reply.fds)

    def _send(self, connection: Connection, packet: bytes, fds: list[int]) -> None:
        """Now, or as soon as there is room. Fds that wait are copies."""
        waited = connection.answer is not None
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            connection.sock.sendmsg([packet], rights, socket.MSG_NOSIGNAL)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EINTR, errno.ETOOMANYREFS, errno.ENOBUFS):
                self._drop(connection)
                return
            if not waited:
                connection.answer = (packet, [_copy(fd) for fd in fds])
            if error.errno == errno.ETOOMANYREFS:
                self._pause(connection, NO_FDS_S)
                return
        else:
            connection.answer = None
            if waited:
                close_all(fds)
        self._listen(connection)

    # --- for the control plane ------------------------------------------------------------------

    def rows(self, id: int, cursor: int, limit: int) -> ClientRows:
        limit = max(1, min(limit, ROWS_MAX))
        found = sorted((s for s in self.sessions if s.id > cursor), key=lambda s: s.id)
        more = found[limit - 1].id if len(found) > limit else 0
        return ClientRows(id, tuple(self._row(session) for session in found[:limit]), more)

    def _row(self, session: Session) -> ClientRow:
        state = session.state
        kind = self.requests.kind_of(session)
        reading = kind.reading(session)
        return ClientRow(
            id=session.id,
            name=state.name,
            switch=state.switch,
            port=state.port,
            pid=session.pid,
            uid=session.uid,
            gid=session.gid,
            program=state.program,
            mode=kind.mode(session),
            tx_rings=state.tx_rings,
            rx_rings=state.rx_rings,
            tx_slots=state.tx_slots,
            rx_slots=state.rx_slots,
            mem_id=state.mem_id,
            connected_at=state.connected_at,
            syncs=reading.view.syncs,
            sleeps=reading.view.sleeps,
            invalid=reading.view.invalid,
            frames_from=reading.frames_from,
            bytes_from=reading.bytes_from,
            frames_to=reading.frames_to,
            bytes_to=reading.bytes_to,
            drops=reading.drops,
        )

    def evict(self, id: int) -> bool:
        """False: there is no such session."""
        return self.requests.evict(id)


def _copy(fd: int) -> int:
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)


def _unread(sock: socket.socket) -> bool:
    """Has the other end something of ours left to read?"""
    held = array.array("i", [0])
    fcntl.ioctl(sock, termios.TIOCOUTQ, held)
    return held[0] > 0


def _memories(ancillary: list[tuple[int, int, bytes]]) -> tuple[list[int], list[int]]:
    """The fds that came along: memories, which close at once, and others."""
    fds = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    memories = [fd for fd in fds if is_memory(fd)]
    return memories, [fd for fd in fds if fd not in memories]
