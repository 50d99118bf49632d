"""netmap programs' side of a forwarder without kernel threads, workers or a keeper's process: an
engine that moves nothing, a clock of its own, connections whose users are whoever they claim.

with World() as world:
    sock = world.connect(uid=1001)
    sock.send(packet)
    world.turn()
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import struct
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from fastpath import channel, native
from fastpath.apply import Applier
from fastpath.channel import close_all
from fastpath.clients import Clients
from fastpath.delta import Delta
from fastpath.keeper import DEFAULT_LIMITS
from fastpath.kept_sessions import KeptSessions
from fastpath.native import Engine, NativeError
from fastpath.protocol import WireObject, combine, object_hash
from fastpath.readings import Counters, PortStatus
from fastpath.regions import StateStore, make_region

SERVICE_UID = 990
ROUNDS_MAX = 500
LANES = {"outbox_bytes": "262144", "inbox_bytes": "262144"}  # as small as they can be


class IdleEngine(Engine):
    """Takes every bridge and port, and moves no frame."""

    def bridge_add(self, slot: int, name: str, entries_max: int, fdb_fd: int) -> None:
        pass

    def bridge_remove(self, slot: int) -> None:
        pass

    def port_add(
        self,
        slot: int,
        name: str,
        type: str,
        options: Mapping[str, str],
        fds: Sequence[int],
        state: str,
    ) -> None:
        pass

    def port_remove(self, slot: int, *, keep_counters: bool) -> None:
        pass

    def publish(self, *_: object) -> None:
        pass

    def port_status(self, slot: int) -> PortStatus:
        raise NativeError(2, "", "nothing is attached")

    def port_counters(self, slot: int) -> Counters:
        return self.total_counters()

    def client_header(self, slot: int, hdr_len: int) -> None:
        pass

    def fdb_show(self, bridge: int, ports: Collection[int]) -> int:
        return self.shown

    def pair_add(self, low: int, high: int, fd: int) -> None:
        pass

    def pair_remove(self, low: int, high: int) -> None:
        pass

    shown = -1


class Claimed(socket.socket):
    """The switch's end of a connection; its peer is whoever it claims to be."""

    credentials = (0, 0, 0)

    def getsockopt(self, level: int, name: int, *size: int) -> bytes:  # type: ignore[override]
        if (level, name) == (socket.SOL_SOCKET, socket.SO_PEERCRED):
            return struct.pack("3i", *self.credentials)
        return super().getsockopt(level, name, *size)


class Door(socket.socket):
    """A listener; who knocks is put there. Readable while somebody waits."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.bind("")
        self._waiting: deque[Claimed] = deque()

    def knock(self, sock: Claimed) -> None:
        self._waiting.append(sock)
        self.sendto(b"x", self.getsockname())

    def accept(self) -> tuple[Claimed, str]:  # type: ignore[override]
        self.recv(1)
        return self._waiting.popleft(), ""


class Complaints(logging.Handler):
    """What the switch had to say of itself."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(self.format(record))


class Keeper:
    """Answers when told to. ``there``: False, nothing reaches it."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.there = True
        self.asked: deque[channel.Acquire] = deque()
        self.kept = KeptSessions(limits)
        self.regions: dict[str, int] = {}

    def send(self, message: channel.Message, fds: Sequence[int] = ()) -> bool:
        if not self.there:
            return False
        if isinstance(message, channel.Acquire):
            self.asked.append(message)
        elif isinstance(message, channel.Session):
            self.kept.keep(message, [os.dup(fd) for fd in fds])
        elif isinstance(message, channel.SessionGone):
            self.kept.forget(message.id)
        elif isinstance(message, channel.Region):
            self.forget(message.name)
            self.regions[message.name] = os.dup(fds[0])
        elif isinstance(message, channel.Forget):
            self.forget(message.name)
        return True

    def forget(self, name: str) -> None:
        close_all([fd for fd in [self.regions.pop(name, None)] if fd is not None])

    def grant(self) -> tuple[channel.Acquired, list[int]]:
        """The oldest of what was asked for, whether or not it can be."""
        request = self.asked.popleft()
        try:
            options = dict(request.options) | (LANES if request.type == "client" else {})
            fds, state = native.port_acquire(request.type, request.name, options)
        except NativeError as error:
            return channel.Acquired(request.id, request.name, error.name, error.message, None), []
        bundle = channel.Bundle(
            request.name, request.type, request.options, request.type, request.options, state
        )
        return channel.Acquired(request.id, request.name, "", "", bundle), fds

    def close(self) -> None:
        self.kept.close()
        for name in list(self.regions):
            self.forget(name)


class World:
    """``turn`` is a round of the forwarder's loop."""

    def __init__(self, limits: Mapping[str, int]) -> None:
        self.limits = dict(DEFAULT_LIMITS) | dict(limits)
        self.now = 1000.0
        self.revision = 0
        self.keeper = Keeper(self.limits)
        self.complaints = Complaints()
        self._selector = selectors.DefaultSelector()
        self._door = Door()
        self._state = make_region("state", 1 << 24)
        self.engine = IdleEngine(ports_max=8, bridges_max=8, workers_max=1)
        self.engine.shown = make_region("fdb-view", 1 << 16)
        store = StateStore(self._state)
        self.applier = Applier(
            self.engine,
            store,
            store.load(),
            self.limits,
            self.keeper.send,
            lambda *_: None,
            now=self._clock,
        )
        self.clients = Clients(
            self._selector,
            self._door,
            self.applier,
            self.keeper.send,
            self.limits,
            (0, SERVICE_UID),
            now=self._clock,
        )
        self.applier.adopt({}, {})
        logging.getLogger("fastpath").addHandler(self.complaints)

    def _clock(self) -> float:
        return self.now

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("fastpath").removeHandler(self.complaints)
        self.clients.close()
        self._door.close()
        self._selector.close()
        self.engine.destroy()
        for held in self.applier.held.values():
            close_all(held.fds)
        close_all([*self.applier.tables.fds.values(), self._state, self.engine.shown])
        self.keeper.close()

    # --- who comes, what happens ----------------------------------------------------------------

    def connect(self, uid: int, gid: int) -> socket.socket:
        """The program's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.setblocking(False)
        claimed = Claimed(fileno=ours.detach())
        claimed.credentials = (os.getpid(), uid, gid)
        self._door.knock(claimed)
        return theirs

    def turn(self) -> None:
        self.clients.serve()
        if self.applier.busy:
            self.applier.work()
        if self.clients.due <= self.now:
            self.clients.wake()
        self.clients.settle()

    def second(self) -> None:
        """What happens once in one."""
        self.applier.tick()
        self.clients.tick()

    def keeper_dies(self) -> None:
        self.keeper.there = False
        self.keeper.asked.clear()
        self.keeper.close()
        self.applier.keeper_gone()

    def keeper_comes(self) -> None:
        """Another one, which has nothing but what it is given."""
        self.keeper.there = True
        self.clients.hand_over(self.keeper)  # type: ignore[arg-type]

    def keeper_answers(self) -> None:
        if self.keeper.asked:
            self.applier.acquired(*self.keeper.grant())
            self.applier.reconcile(retry=False)

    def configure(self, upserts: Iterable[WireObject] = (), deletes: Iterable[str] = ()) -> None:
        """As the control plane."""
        after = {k: o for k, o in self.applier.objects.items() if k not in set(deletes)}
        after |= {obj.key: obj for obj in upserts}
        self.revision += 1
        hash = combine(map(object_hash, after.values()))
        self.applier.change(Delta(self.revision, hash, tuple(upserts), tuple(deletes), frozenset()))
        while self.applier.busy:
            self.applier.work()

    def quiet(self) -> None:
        """Everything that was begun comes to its end."""
        for _ in range(ROUNDS_MAX):
            self.keeper_answers()
            self.now += 1
            self.turn()
            self.second()
            if not self.keeper.asked and not self.clients.connections:
                return
        raise TimeoutError(f"{len(self.clients.connections)} connections last")
