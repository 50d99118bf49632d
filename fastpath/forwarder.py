"""The forwarder: first a warm standby, then the process that moves frames.

A standby has imported, mapped and dropped everything it can before it waits: after that no path
is needed and none can be opened. It ends when its keeper does. While it waits it follows the
applied configuration in the state memory (rehearsal.py). Promoted by ``Adopt`` it goes on with the
fds it was given and needs neither keeper nor control plane to keep frames flowing; a new keeper
comes in by the handover socket.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401  what the interpreter would import later, from paths gone by then
import gc
import linecache  # noqa: F401
import logging
import os
import select
import selectors
import signal
import socket
import time
import traceback  # noqa: F401
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from fastpath import channel, client_sessions, connections, native, rights
from fastpath.apply import HeldPort
from fastpath.channel import Channel, ChannelClosed, ChannelError, Packet, close_all
from fastpath.client_sessions import Left
from fastpath.clients import Clients
from fastpath.native import Engine
from fastpath.native_connections import ConnectionTable
from fastpath.regions import (
    CONNTRACK,
    CONTROL_SOCKET,
    FDB_PREFIX,
    HANDOVER_SOCKET,
    NETMAP_SOCKET,
    PAIR_PREFIX,
    STATE,
    STATS,
    StateStore,
)
from fastpath.rehearsal import Rehearsal
from fastpath.rule_report import LOG_S
from fastpath.server import Facts, Identity, Server

TICK_S = 1.0
ANSWERS_S = 0.02  # answers of the keeper are collected this long while more are to come

log = logging.getLogger(__name__)


def build() -> str:
    """Version of this software, as installed."""
    try:
        return version("vswitch")
    except PackageNotFoundError:
        return "source"


class _Inbox:
    """Blocking reads for the time before the loop."""

    def __init__(self, keeper: Channel) -> None:
        self._keeper = keeper
        self._packets: Iterator[Packet] = iter(())

    def get(self, rehearsal: Rehearsal | None = None) -> Packet:
        """The next packet, with a rehearsal until then; ChannelClosed: the keeper is gone."""
        while True:
            for packet in self._packets:
                return packet
            wait_s = rehearsal.wait_s if rehearsal is not None else None
            readable, _, _ = select.select([self._keeper], [], [], wait_s)
            if readable:
                self._packets = self._keeper.receive()
            elif rehearsal is not None:
                rehearsal.work()


def run(channel_fd: int) -> int:
    """Be a standby on that channel, then perhaps the forwarder. Returns the exit status."""
    keeper = Channel(socket.socket(fileno=channel_fd))
    inbox = _Inbox(keeper)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the keeper's business
    try:
        prepare, regions = _prepare(inbox)
        rehearsal = _rehearsal(regions, prepare.limits)
        identity_build = build()
        wake = _wake()
        with contextlib.suppress(OSError), open("/proc/self/comm", "w") as comm:
            comm.write("vswitch-fwd")
        rights.keep_precedence()
        native.sandbox_drop(prepare.uid, prepare.gid)
        native.sandbox_enter()
        keeper.send(channel.Ready(os.getpid()))
        adopt, held, links, left = _wait(inbox, regions, rehearsal)
    except ChannelClosed:
        log.info("the keeper of this standby is gone")
        return 0
    started = time.monotonic()
    gc.disable()  # until frames flow
    facts = Facts(
        adopt.port_types,
        prepare.limits,
        {link.ifindex: link.name for link in links if not link.gone},
    )
    forwarder = Forwarder(keeper, prepare, adopt, regions, rehearsal, facts, identity_build)
    forwarder.start(held, left)
    gc.enable()
    log.info("forwarding %d ports after %.1f ms", len(held), (time.monotonic() - started) * 1000)
    return forwarder.loop(wake)


def _wake() -> socket.socket:
    """Readable after a signal that has a handler; made here because the sandbox forbids it."""
    read, write = socket.socketpair()
    for end in (read, write):
        end.setblocking(False)
    signal.set_wakeup_fd(write.detach())
    return read


def _rehearsal(regions: Mapping[str, int], limits: dict[str, int]) -> Rehearsal:
    """With engines in the memories that outlive a forwarder."""

    def engine() -> Engine:
        made = Engine(
            ports_max=limits["ports_max"],
            bridges_max=limits["bridges_max"],
            workers_max=limits["workers_max"],
            stats_fd=regions[STATS],
            spin_us=limits["spin_us"],
            sets_max=limits["sets_max"],
            rules_max=limits["rules_max"],
            policers_max=limits["policers_max"],
            connections_max=limits["connections_max"],
            conntrack_fd=regions[CONNTRACK],
        )
        ConnectionTable(made).set(connections.settings(limits))
        return made

    return Rehearsal(StateStore(regions[STATE]), limits, engine)


def _prepare(inbox: _Inbox) -> tuple[channel.Prepare, dict[str, int]]:
    regions: dict[str, int] = {}
    while True:
        packet = inbox.get()
        match packet.message:
            case channel.Region(name):
                regions[name] = packet.fds[0]
            case channel.Prepare() as prepare:
                return prepare, regions
            case other:
                raise ChannelError(f"unexpected {type(other).__name__}")


def _wait(
    inbox: _Inbox, regions: dict[str, int], rehearsal: Rehearsal
) -> tuple[channel.Adopt, dict[str, HeldPort], list[channel.Link], list[Left]]:
    held: dict[str, HeldPort] = {}
    sessions: list[Left] = []
    links: list[channel.Link] = []
    first: Rehearsal | None = rehearsal
    while True:
        packet = inbox.get(first)
        first = None  # the rest is on its way
        match packet.message:
            case channel.Region(name):
                regions[name] = packet.fds[0]
            case channel.Bundle() as bundle:
                held[bundle.name] = HeldPort(bundle, packet.fds)
            case channel.Session() as message:
                left = client_sessions.left(message, packet.fds)
                if left is not None:
                    sessions.append(left)
            case channel.Link() as link:
                links.append(link)
            case channel.Adopt() as adopt:
                return adopt, held, links, sessions
            case channel.Stop():
                raise ChannelClosed("told to stop")
            case other:
                raise ChannelError(f"unexpected {type(other).__name__}")


class Forwarder:
    """The running forwarder's main thread."""

    def __init__(
        self,
        keeper: Channel,
        prepare: channel.Prepare,
        adopt: channel.Adopt,
        regions: dict[str, int],
        rehearsal: Rehearsal,
        facts: Facts,
        build: str,
    ) -> None:
        self._keeper: Channel | None = keeper
        self._keeper_uid = prepare.keeper_uid
        self._facts = facts
        self._restarts = adopt.restarts
        self._fdbs = {
            name.removeprefix(FDB_PREFIX): fd
            for name, fd in regions.items()
            if name.startswith(FDB_PREFIX)
        }
        self._pairs = {n: fd for n, fd in regions.items() if n.startswith(PAIR_PREFIX)}
        self._regions = {
            name: fd
            for name, fd in regions.items()
            if not name.startswith((FDB_PREFIX, PAIR_PREFIX))
        }
        self._selector = selectors.EpollSelector()
        self._stopping = False
        self._answers = False
        self._news = False
        self._answers_due = 0.0
        self._log_due = 0.0
        limits = prepare.limits
        self._server: Server | None = None
        rehearsal.outside.send, rehearsal.outside.notify = self._to_keeper, self._notify
        self._engine, self._applier = rehearsal.perform(recover=adopt.recover)
        self._identity = Identity(
            build=build,
            epoch=os.urandom(8).hex(),
            pid=os.getpid(),
            restarts=adopt.restarts,
            uids=frozenset({0, prepare.keeper_uid, os.getuid()}),
            gid=prepare.control_gid,
        )
        self._clients = Clients(
            self._selector,
            socket.socket(fileno=os.dup(regions[NETMAP_SOCKET])),
            self._applier,
            self._to_keeper,
            limits,
            self._identity.uids,
            adopt.restarts,
        )

    def start(self, held: dict[str, HeldPort], left: list[Left]) -> None:
        """Frames first, then everybody else."""
        self._clients.restore(left)  # whose ports are wanted, too
        self._applier.adopt(held, self._fdbs)
        self._clients.pairs.restore(self._pairs)
        assert self._keeper is not None
        self._selector.register(self._keeper, selectors.EVENT_READ, self._from_keeper)
        handover = socket.socket(fileno=os.dup(self._regions[HANDOVER_SOCKET]))
        handover.setblocking(False)
        self._handover = handover
        self._selector.register(handover, selectors.EVENT_READ, self._accept_keeper)
        control = socket.socket(fileno=os.dup(self._regions[CONTROL_SOCKET]))
        self._server = Server(
            self._selector, control, self._applier, self._identity, self._facts, self._clients
        )
        self._clients.settle()

    def loop(self, wake: socket.socket) -> int:
        """Until told to stop."""
        signal.signal(signal.SIGTERM, self._stop)
        self._selector.register(wake, selectors.EVENT_READ, lambda _: wake.recv(64))
        next_tick = time.monotonic() + TICK_S
        while not self._stopping:
            for key, mask in self._selector.select(self._wait_s(next_tick)):
                self._guarded(key.data, mask)
            if self._applier.busy:
                self._guarded(self._work, 0)
            if self._answers and time.monotonic() >= self._answers_due:
                self._guarded(lambda _: self._reconcile(), 0)
            if time.monotonic() >= self._clients.due:
                self._guarded(lambda _: self._clients.wake(), 0)
            if time.monotonic() >= self._log_due:
                self._guarded(self._push_log, 0)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._guarded(self._tick, 0)
        log.info("forwarder stops")
        self._engine.destroy()
        return 0

    def _wait_s(self, next_tick: float) -> float:
        """Until there is something to do without anybody asking."""
        if self._applier.busy:
            return 0.0
        due = min(next_tick, self._clients.due)
        if self._answers:
            due = min(due, self._answers_due)
        if self._server is not None and self._server.logs:
            due = min(due, self._log_due)
        return max(0.0, due - time.monotonic())

    def _work(self, _: int) -> None:
        self._applier.work()
        self._pump()

    def _push_log(self, _: int) -> None:
        self._log_due = time.monotonic() + LOG_S
        if self._server is not None:
            self._server.push_log()

    def _guarded(self, callback: object, mask: int) -> None:
        """A mistake in an answer must not stop frames: it is logged, and the loop goes on."""
        try:
            callback(mask)  # type: ignore[operator]
        except Exception:
            log.exception("in the control loop")

    def _stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def _tick(self, _: int) -> None:
        self._engine.tick()
        self._applier.tick()
        self._clients.tick()
        self._pump()

    def _pump(self) -> None:
        """What waited for something that may be there by now."""
        self._clients.settle()
        if self._server is not None:
            self._server.pump()

    def _notify(self, kind: str, object: str, message: str) -> None:
        log.info("%s: %s%s", object, kind, f": {message}" if message else "")
        if self._server is not None:
            self._server.event(kind, object, message)

    # --- the keeper -----------------------------------------------------------------------------

    def _to_keeper(self, message: channel.Message, fds: Sequence[int]) -> bool:
        if self._keeper is None:
            return False
        try:
            self._keeper.send(message, fds)
        except ChannelClosed:
            return False  # the loop sees the end of the channel, too
        self._watch_keeper()
        return True

    def _watch_keeper(self) -> None:
        """Write readiness counts only while something waits."""
        if self._keeper is None or self._keeper not in self._selector.get_map():
            return
        want = selectors.EVENT_READ | (selectors.EVENT_WRITE if self._keeper.waiting else 0)
        if self._selector.get_key(self._keeper).events != want:
            self._selector.modify(self._keeper, want, self._from_keeper)

    def _from_keeper(self, mask: int) -> None:
        if self._keeper is None:
            return
        try:
            self._keeper.flush()
            for packet in self._keeper.receive():
                self._keeper_said(packet)
        except ChannelClosed:
            self._lose_keeper("it is gone")
        except ChannelError as error:
            self._lose_keeper(str(error))
        self._watch_keeper()
        if not self._applier.asking:
            self._reconcile()

    def _reconcile(self) -> None:
        """What the keeper's answers and news make possible."""
        if self._answers or self._news:
            news = self._news
            self._answers = self._news = False
            self._applier.reconcile(retry=news)
        self._pump()

    def _keeper_said(self, packet: Packet) -> None:
        match packet.message:
            case channel.Acquired() as answer:
                self._applier.acquired(answer, packet.fds)
                if not self._answers:
                    self._answers_due = time.monotonic() + ANSWERS_S
                self._answers = True
            case channel.Link() as link:
                self._link(link)
                self._news = True
            case channel.ValeSwitches(switches):
                self._facts.vale = switches
            case channel.KeeperFacts(port_types):
                self._news = True
                self._facts.port_types = port_types
                self._facts.keeper_connected = True
                self._notify("keeper", "system", "a keeper took over")
            case channel.Stop():
                self._stopping = True
            case other:
                close_all(packet.fds)
                raise ChannelError(f"unexpected {type(other).__name__}")

    def _link(self, link: channel.Link) -> None:
        links = self._facts.links
        if link.gone:
            links.pop(link.ifindex, None)
            self._applier.interface_gone(link.ifindex)
            return
        links[link.ifindex] = link.name
        for name in self._applier.ports_on(link.ifindex):
            text = f"{link.name} is {'up' if link.up else 'down'}, MTU {link.mtu}"
            self._notify("link", f"port/{name}", text)

    def _lose_keeper(self, why: str) -> None:
        if self._keeper is None:
            return
        log.warning("no keeper (%s); frames keep flowing", why)
        self._selector.unregister(self._keeper)
        self._keeper.close()
        self._keeper = None
        self._facts.keeper_connected = False
        self._applier.keeper_gone()
        self._notify("keeper", "system", "the keeper is gone")

    # --- a new keeper ---------------------------------------------------------------------------

    def _accept_keeper(self, mask: int) -> None:
        try:
            sock, _ = self._handover.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        _, uid, _ = channel.peer_credentials(sock)
        self._from_keeper(0)  # notices that the old one is gone
        if uid not in (0, self._keeper_uid):
            log.warning("a process of uid %d tried to be the keeper", uid)
            sock.close()
            return
        candidate = Channel(sock)
        self._selector.register(
            candidate, selectors.EVENT_READ, lambda mask: self._candidate(candidate)
        )

    def _candidate(self, candidate: Channel) -> None:
        """The first thing a new keeper says is that it wants everything."""
        try:
            packet = next(candidate.receive(), None)
            if packet is None:
                return
            close_all(packet.fds)
            self._selector.unregister(candidate)
            if not isinstance(packet.message, channel.TakeBack):
                candidate.close()
            elif self._keeper is not None:
                candidate.send(channel.Refusal("the forwarder has a keeper that lives"))
                candidate.close()
            else:
                self._hand_over(candidate)
        except (ChannelClosed, ChannelError) as error:
            log.warning("the new keeper failed: %s", error)
            if candidate in self._selector.get_map():
                self._selector.unregister(candidate)
            candidate.close()

    def _hand_over(self, keeper: Channel) -> None:
        for name, fd in self._regions.items():
            keeper.send(channel.Region(name), [fd])
        for bridge, fd in self._applier.tables.fds.items():
            keeper.send(channel.Region(FDB_PREFIX + bridge), [fd])
        for held in self._applier.held.values():
            keeper.send(held.bundle, held.fds)
        self._clients.hand_over(keeper)
        keeper.send(channel.Holding(os.getpid(), self._restarts, self._facts.limits))
        self._keeper = keeper
        self._selector.register(keeper, selectors.EVENT_READ, self._from_keeper)
        self._watch_keeper()
        log.info("handed everything to a new keeper")
