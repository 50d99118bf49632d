"""A new keeper takes everything back from the forwarder of one that died.

Who answers is told by the kernel (SO_PASSCRED puts the sender's pid and uid on every packet), not
by the forwarder.pid file; a pidfd that is still silent when the answer is complete is this process
and no later one of the same number, because the dead cannot keep a connection open.
"""

from __future__ import annotations

import logging
import os
import select
import time
from dataclasses import dataclass, field

from fastpath import channel
from fastpath.channel import Bundle, Channel, ChannelClosed, ChannelError, Packet, close_all
from fastpath.children import Child
from fastpath.regions import (
    CONNTRACK,
    CONTROL_SOCKET,
    HANDOVER_SOCKET,
    NETMAP_SOCKET,
    STATE,
    STATS,
)
from fastpath.rundir import RunDir, RunDirError

ANSWER_S = 5.0
NEEDED = {STATE, STATS, CONNTRACK, CONTROL_SOCKET, HANDOVER_SOCKET, NETMAP_SOCKET}

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """What the forwarder held; the fds are the new keeper's copies."""

    child: Child
    restarts: int
    limits: dict[str, int]
    regions: dict[str, int]
    bundles: dict[str, tuple[Bundle, list[int]]]
    sessions: dict[int, tuple[channel.Session, list[int]]]


@dataclass(slots=True)
class _Collected:
    regions: dict[str, int] = field(default_factory=dict)
    bundles: dict[str, tuple[Bundle, list[int]]] = field(default_factory=dict)
    sessions: dict[int, tuple[channel.Session, list[int]]] = field(default_factory=dict)
    pid: int | None = None
    pidfd: int = -1

    def close(self) -> None:
        close_all(list(self.regions.values()))
        for _, fds in (*self.bundles.values(), *self.sessions.values()):
            close_all(fds)
        if self.pidfd >= 0:
            os.close(self.pidfd)


def take_back(rundir: RunDir, uids: set[int]) -> Taken | None:
    """None: no forwarder runs. RunDirError: one runs and does not give."""
    sock = rundir.connect_handover()
    if sock is None:
        return None
    peer = Channel(sock)
    collected = _Collected()
    try:
        peer.send(channel.TakeBack())
        holding = _collect(peer, collected, uids)
    except ChannelClosed:
        # The dying standby of the old keeper held the socket, or the forwarder died just now.
        collected.close()
        peer.close()
        return None
    except (ChannelError, TimeoutError) as error:
        collected.close()
        peer.close()
        pid = collected.pid or rundir.read_pid("forwarder")
        raise RunDirError(f"forwarder {pid} runs but does not hand over: {error}") from error
    assert collected.pid is not None
    child = Child(collected.pid, collected.pidfd, peer, own=False)
    return Taken(
        child,
        holding.restarts,
        holding.limits,
        collected.regions,
        collected.bundles,
        collected.sessions,
    )


def _collect(peer: Channel, collected: _Collected, uids: set[int]) -> channel.Holding:
    deadline = time.monotonic() + ANSWER_S
    while True:
        readable, _, _ = select.select([peer], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            raise TimeoutError(f"no answer in {ANSWER_S:.0f} s")
        for packet in peer.receive():
            _check_sender(packet, collected, uids)
            match packet.message:
                case channel.Region(name):
                    collected.regions[name] = packet.fds[0]
                case channel.Bundle() as bundle:
                    collected.bundles[bundle.name] = (bundle, packet.fds)
                case channel.Session() as session:
                    collected.sessions[session.id] = (session, packet.fds)
                case channel.Refusal(message):
                    raise ChannelError(message)
                case channel.Holding() as holding:
                    _check_complete(collected)
                    return holding
                case other:
                    close_all(packet.fds)
                    raise ChannelError(f"unexpected {type(other).__name__}")


def _check_sender(packet: Packet, collected: _Collected, uids: set[int]) -> None:
    if packet.sender_pid is None or packet.sender_uid not in uids:
        close_all(packet.fds)
        raise ChannelError(f"process {packet.sender_pid} of uid {packet.sender_uid} answered")
    if collected.pid is None:
        collected.pid = packet.sender_pid
        try:
            collected.pidfd = os.pidfd_open(packet.sender_pid)
        except ProcessLookupError as error:
            close_all(packet.fds)
            raise ChannelClosed("it died") from error
    elif collected.pid != packet.sender_pid:
        close_all(packet.fds)
        raise ChannelError("two processes answered")


def _check_complete(collected: _Collected) -> None:
    if not collected.regions.keys() >= NEEDED:
        raise ChannelError(f"regions are missing: {NEEDED - collected.regions.keys()}")
    readable, _, _ = select.select([collected.pidfd], [], [], 0)
    if readable:
        raise ChannelClosed("it died")
