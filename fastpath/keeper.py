"""The keeper: opens devices, keeps every fd, keeps a forwarder running. Parses no frame.

One thread. It watches the forwarder and a warm standby by pidfd, their requests, and the kernel's
interfaces. Everything a forwarder needs lies here as fds: two copies exist, and either process can
die. After the forwarder's death the standby is given all of them; after the keeper's the next
keeper asks the forwarder for them.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import socket
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from fastpath import channel, native, rights, vale
from fastpath.channel import Bundle, ChannelClosed, ChannelError, Packet, close_all
from fastpath.children import Child, spawn
from fastpath.devices import LinkMonitor
from fastpath.kept_sessions import KeptSessions
from fastpath.native_connections import conntrack_bytes
from fastpath.opener import Opener, OpenError, Policy
from fastpath.regions import (
    CONNTRACK,
    CONTROL_SOCKET,
    FDB_PREFIX,
    HANDOVER_SOCKET,
    NETMAP_SOCKET,
    PAIR_FDS_MAX,
    PAIR_PREFIX,
    STATE,
    STATE_BYTES,
    STATS,
    make_region,
)
from fastpath.rundir import RunDir
from fastpath.takeover import Taken, take_back

DEFAULT_LIMITS = {
    "ports_max": 256,
    "bridges_max": 64,
    "workers_max": 320,
    "fdb_entries_max": 1 << 20,
    "objects_max": 1 << 19,
    "sets_max": 256,
    "rules_max": 1 << 18,
    "set_rules_max": 1 << 17,
    "matches_max": 1 << 20,
    "rule_matches_max": 1 << 16,
    "policers_max": 256,
    "clients_max": 32,
    "netmap_connections_max": 1024,
    "netmap_connections_user_max": 256,
    "netmap_ports_user_max": 64,
    "netmap_memory_user_max": 2 << 30,
    "netmap_requests_s": 1000,
    "netmap_opens_s": 100,
    "spin_us": 200,
    "connections_max": 65536,
    "connections_port_max": 0,  # a quarter of them
    "tcp_opening_s": 60,
    "tcp_established_s": 7440,
    "tcp_closing_s": 120,
    "udp_new_s": 30,
    "udp_established_s": 180,
    "icmp_s": 30,
    "tcp_loose": 0,
}
STANDBY_DELAY_S = 0.05
STOP_S = 3.0
CRASHES = 5
CRASH_WINDOW_S = 10.0
SHORT_LIFE_S = 0.1
VALE_S = 1.0
BACKOFF_MIN_S = 0.5
BACKOFF_MAX_S = 8.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Config:
    """The command line."""

    run_directory: Path
    data_directory: Path
    uid: int
    gid: int
    control_gid: int
    policy: Policy = field(default_factory=Policy)
    limits: dict[str, int] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    extmem_directory: Path | None = None
    af_xdp: bool = False


class CrashLoop:
    """When to hold back: after five crashes in ten seconds, until a forwarder lives that long.

    A kill from outside of a forwarder that ran is no crash.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=CRASHES)
        self._delay_s = 0.0

    def died(self, now: float, lived_s: float, how: str) -> float:
        """Seconds to wait before the next forwarder gets the fds."""
        if lived_s >= CRASH_WINDOW_S:
            self._times.clear()
            self._delay_s = 0.0
        if how == "killed by SIGKILL" and lived_s >= SHORT_LIFE_S:
            return 0.0
        self._times.append(now)
        full = len(self._times) == CRASHES and now - self._times[0] <= CRASH_WINDOW_S
        if self._delay_s:
            self._delay_s = min(self._delay_s * 2, BACKOFF_MAX_S)
        elif full:
            self._delay_s = BACKOFF_MIN_S
        return self._delay_s


class Keeper:
    """Call :meth:`run`; it returns the exit status."""

    def __init__(self, config: Config, rundir: RunDir) -> None:
        self._config = config
        self._rundir = rundir
        self._limits = dict(config.limits)
        pcap = config.data_directory / "pcap"
        _make_pcap_directory(pcap, config.control_gid)
        self._opener = Opener(
            config.policy,
            pcap,
            config.run_directory,
            extmem_directory=config.extmem_directory,
            af_xdp=config.af_xdp,
        )
        self._port_types = self._opener.port_types()
        self._selector = selectors.EpollSelector()
        self._monitor = LinkMonitor()
        self._bundles: dict[str, tuple[Bundle, list[int]]] = {}
        self._regions: dict[str, int] = {}
        # What a forwarder may give besides: how many at most.
        self._prefixes = {FDB_PREFIX: self._limits["bridges_max"], PAIR_PREFIX: PAIR_FDS_MAX}
        self._sessions = KeptSessions(self._limits)
        self._active: Child | None = None
        self._standby: Child | None = None
        self._restarts = -1  # the first promotion is none
        self._recover = False
        self._crashes = CrashLoop()
        self._promote_not_before = 0.0
        self._standby_not_before = 0.0
        self._stopping = False
        self._vale: vale.Switches = {}
        self._vale_due = 0.0 if not self._port_types.get("vale_nic", "absent") else math.inf

    # --- life -----------------------------------------------------------------------------------

    def run(self) -> int:
        """Until SIGTERM or SIGINT."""
        rights.keep_precedence()
        rights.give_precedence(0, rights.NICE)
        native.port_prepare()
        kept = rights.KEEPER + (rights.KEEPER_XDP if self._config.af_xdp else ())
        native.sandbox_limit(sum(1 << capability for capability in kept))
        self._rundir.write_pid("keeper", os.getpid())
        wake = self._catch_signals()
        self._selector.register(self._monitor, selectors.EVENT_READ, lambda _: self._links())
        self._monitor.read()
        taken = take_back(self._rundir, {0, os.getuid(), self._config.uid})
        if taken is None:
            self._begin()
        else:
            self._continue(taken)
        log.info("keeper runs in %s", self._rundir.path)
        while not self._stopping:
            for key, mask in self._selector.select(self._timeout()):
                key.data(mask)
            self._due()
        self._end()
        wake.close()
        return 0

    def _catch_signals(self) -> socket.socket:
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
        signal.set_wakeup_fd(write.detach())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        self._selector.register(read, selectors.EVENT_READ, lambda _: read.recv(64))
        return read

    def _stop(self, signum: int, frame: object) -> None:
        self._stopping = True

    def _begin(self) -> None:
        """Nobody forwards yet."""
        limits = self._limits
        self._regions = {
            STATE: make_region("state", STATE_BYTES),
            STATS: make_region(
                "stats", native.stats_bytes(limits["workers_max"], limits["ports_max"])
            ),
            CONNTRACK: make_region("conntrack", conntrack_bytes(limits["connections_max"])),
            CONTROL_SOCKET: self._rundir.listen_control().detach(),
            HANDOVER_SOCKET: self._rundir.listen_handover().detach(),
            NETMAP_SOCKET: self._rundir.listen_netmap().detach(),
        }
        self._start_standby()

    def _continue(self, taken: Taken) -> None:
        """A forwarder runs that lost its keeper: be its keeper."""
        self._regions = taken.regions
        self._limits = taken.limits
        self._restarts = taken.restarts
        self._recover = True
        for name, (bundle, fds) in taken.bundles.items():
            if self._opener.sound(bundle):
                self._bundles[name] = (bundle, fds)
            else:
                log.warning("the forwarder holds port %s, which is not allowed any more", name)
                close_all(fds)
        self._sessions = KeptSessions(self._limits)
        for session, fds in taken.sessions.values():
            self._sessions.keep(session, fds)
        self._active = taken.child
        self._watch(taken.child)
        for link in self._monitor.links.values():
            self._send(taken.child, link)
        self._send(taken.child, channel.KeeperFacts(self._port_types))
        self._send(taken.child, channel.ValeSwitches(self._vale))
        self._rundir.write_pid("forwarder", taken.child.pid)
        log.info("took %d ports back from forwarder %d", len(self._bundles), taken.child.pid)
        self._start_standby()

    def _end(self) -> None:
        """Stop both, undo what we opened."""
        children = [child for child in (self._standby, self._active) if child is not None]
        for child in children:
            self._send(child, channel.Stop())
            child.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_S
        for child in children:
            with selectors.DefaultSelector() as waiting:
                waiting.register(child.pidfd, selectors.EVENT_READ)
                if not waiting.select(max(0.0, deadline - time.monotonic())):
                    log.warning("forwarder %d does not stop; killed", child.pid)
                    child.signal(signal.SIGKILL)
                    waiting.select(STOP_S)
            if child is self._active:
                with contextlib.suppress(ChannelClosed, ChannelError):
                    self._drain(child)
            self._unwatch(child)
            child.reap()
            child.close()
        for name in list(self._bundles):
            self._release(name)
        self._sessions.close()
        close_all(list(self._regions.values()))
        self._monitor.close()
        self._rundir.clean()
        log.info("keeper stopped")

    # --- children -------------------------------------------------------------------------------

    def _timeout(self) -> float | None:
        """Until the next thing that has to be done without anybody asking."""
        times = [self._vale_due]
        if self._standby is None:
            times.append(self._standby_not_before)
        elif self._active is None and self._standby.ready:
            times.append(self._promote_not_before)
        first = min(times)
        return None if first == math.inf else max(0.0, first - time.monotonic())

    def _due(self) -> None:
        now = time.monotonic()
        if now >= self._vale_due:
            self._vale_due = now + VALE_S
            self._look_at_vale()
        if self._standby is None and now >= self._standby_not_before:
            self._start_standby()
        ready = self._standby is not None and self._standby.ready
        if self._active is None and ready and now >= self._promote_not_before:
            self._promote()

    def _start_standby(self) -> None:
        try:
            child = spawn()
        except OSError as error:
            log.error("no new forwarder can be started: %s", error)
            self._standby_not_before = time.monotonic() + 1.0
            return
        self._standby = child
        self._watch(child)
        for name, fd in self._regions.items():
            if not name.startswith(tuple(self._prefixes)):
                self._send(child, channel.Region(name), [fd])
        apart = rights.may(rights.CAP_SETUID)  # a user of its own, where we may give it one
        self._send(
            child,
            channel.Prepare(
                uid=self._config.uid if apart else 0,
                gid=self._config.gid if apart else 0,
                control_gid=self._config.control_gid,
                keeper_uid=os.geteuid(),
                limits=self._limits,
            ),
        )

    def _watch(self, child: Child) -> None:
        self._selector.register(child.pidfd, selectors.EVENT_READ, lambda _: self._died(child))
        self._selector.register(child.channel, selectors.EVENT_READ, lambda _: self._serve(child))

    def _unwatch(self, child: Child) -> None:
        self._selector.unregister(child.pidfd)
        if child.channel in self._selector.get_map():
            self._selector.unregister(child.channel)

    def _send(self, child: Child, message: channel.Message, fds: list[int] | None = None) -> None:
        """Its death is seen by its pidfd, so a closed channel is no news."""
        try:
            child.channel.send(message, fds or [])
        except ChannelClosed:
            return
        self._await_room(child)

    def _await_room(self, child: Child) -> None:
        if child.channel not in self._selector.get_map():
            return
        key = self._selector.get_key(child.channel)
        want = selectors.EVENT_READ | (selectors.EVENT_WRITE if child.channel.waiting else 0)
        if key.events != want:
            self._selector.modify(child.channel, want, key.data)

    def _promote(self) -> None:
        child = self._standby
        assert child is not None
        self._standby = None
        rights.give_precedence(child.pid, rights.NICE)
        for name, fd in self._regions.items():
            if name.startswith(tuple(self._prefixes)):
                self._send(child, channel.Region(name), [fd])
        for bundle, fds in self._bundles.values():
            self._send(child, bundle, fds)
        for session, fds in self._sessions:
            self._send(child, session, fds)
        for link in self._monitor.links.values():
            self._send(child, link)
        self._restarts += 1
        adopt = channel.Adopt(self._restarts, self._recover, self._port_types)
        self._send(child, adopt)
        self._send(child, channel.ValeSwitches(self._vale))
        self._recover = True
        self._active = child
        child.promoted_at = time.monotonic()
        self._rundir.write_pid("forwarder", child.pid)
        self._standby_not_before = time.monotonic() + STANDBY_DELAY_S
        log.info("forwarder %d takes over %d ports", child.pid, len(self._bundles))

    def _died(self, child: Child) -> None:
        """The address space is gone when a pidfd becomes readable: the fds may be used again."""
        with contextlib.suppress(ChannelClosed, ChannelError):
            self._drain(child)
        self._unwatch(child)
        how = child.reap()
        child.close()
        now = time.monotonic()
        if child is self._standby:
            log.warning("standby %d %s", child.pid, how)
            self._standby = None
            self._standby_not_before = now + 1.0
            return
        log.warning("forwarder %d %s", child.pid, how)
        self._active = None
        lived = now - child.promoted_at if child.promoted_at is not None else 0.0
        delay = self._crashes.died(now, lived, how)
        if delay:
            log.error("the forwarder dies again and again; next try in %.1f s", delay)
        self._promote_not_before = now + delay
        if self._standby is None:
            self._standby_not_before = now

    # --- requests -------------------------------------------------------------------------------

    def _serve(self, child: Child) -> None:
        try:
            child.channel.flush()
            for packet in child.channel.receive():
                self._handle(child, packet)
        except ChannelClosed:
            self._selector.unregister(child.channel)  # the pidfd tells the rest
            return
        except ChannelError as error:
            log.error("forwarder %d speaks nonsense (%s); killed", child.pid, error)
            self._selector.unregister(child.channel)
            child.signal(signal.SIGKILL)
            return
        self._await_room(child)

    def _drain(self, child: Child) -> None:
        """What a dead forwarder still said about what it kept; its wishes died with it."""
        for packet in child.channel.receive():
            if isinstance(packet.message, channel.Acquire):
                continue
            self._handle(child, packet)

    def _handle(self, child: Child, packet: Packet) -> None:
        match packet.message:
            case channel.Ready():
                child.ready = True
            case channel.Acquire() as request if child is self._active:
                self._acquire(child, request)
            case channel.Release(name) if child is self._active:
                self._release(name)
            case channel.Region(name) if child is self._active:
                self._keep(name, packet.fds)
            case channel.Forget(name) if child is self._active:
                self._keep(name, [])
            case channel.Session() as session if child is self._active:
                self._sessions.keep(session, packet.fds)
            case channel.SessionGone(id) if child is self._active:
                self._sessions.forget(id)
            case other:
                close_all(packet.fds)
                raise ChannelError(f"unexpected {type(other).__name__}")

    def _keep(self, name: str, fds: list[int]) -> None:
        """A bridge's table comes, or a pair's fd, or goes when there is no fd."""
        prefix = next((word for word in self._prefixes if name.startswith(word)), "")
        kept = sum(region.startswith(prefix) for region in self._regions)
        if not prefix or len(fds) > 1 or kept > self._prefixes[prefix]:
            close_all(fds)
            raise ChannelError(f"region {name} is not the forwarder's to give")
        old = self._regions.pop(name, None)
        if old is not None:
            os.close(old)
        if fds:
            self._regions[name] = fds[0]

    def _acquire(self, child: Child, request: channel.Acquire) -> None:
        if request.name in self._bundles:
            self._release(request.name)
        if len(self._bundles) >= self._limits["ports_max"]:
            limit = f"{self._limits['ports_max']} ports are the limit"
            self._send(child, channel.Acquired(request.id, request.name, "LIMIT", limit, None))
            return
        try:
            bundle, fds = self._opener.open(
                request.name, request.type, request.options, self._bundles.values()
            )
        except OpenError as error:
            log.debug("port %s: %s", request.name, error)
            answer = channel.Acquired(request.id, request.name, error.code, str(error), None)
            self._send(child, answer)
            return
        self._bundles[request.name] = (bundle, fds)
        self._send(child, channel.Acquired(request.id, request.name, "", "", bundle), fds)

    def _release(self, name: str) -> None:
        held = self._bundles.pop(name, None)
        if held is None:
            return
        try:
            self._opener.release(*held)
        except OpenError as error:
            log.warning("port %s: %s", name, error)

    def _look_at_vale(self) -> None:
        """The module's switches have other users, and it tells nobody."""
        switches = vale.switches()
        if switches != self._vale:
            self._vale = switches
            if self._active is not None:
                self._send(self._active, channel.ValeSwitches(switches))

    def _links(self) -> None:
        for link in self._monitor.read():
            if self._active is not None:
                self._send(self._active, link)


def _make_pcap_directory(path: Path, gid: int) -> None:
    """For the control plane to put files into; where it cannot be made, pcap ports say so."""
    with contextlib.suppress(OSError):
        path.mkdir(mode=0o770)
        path.chmod(0o770)
        os.chown(path, -1, gid)
