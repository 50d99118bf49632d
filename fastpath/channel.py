"""Between keeper and forwarder: messages with fds over a SOCK_SEQPACKET socket.

One packet is one MessagePack struct; the fds it speaks of travel with it (SCM_RIGHTS). The same
messages go both ways: a keeper hands its holdings to a forwarder (``Adopt``), and a forwarder
hands them to a new keeper (``Holding``), because both keep a copy of every fd.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

PACKET_BYTES_MAX = 192 * 1024
FDS_MAX = 64
_CREDENTIALS = struct.Struct("iII")


class ChannelClosed(Exception):
    """The other side is gone."""


class ChannelError(Exception):
    """The other side sent something that is not a message of this channel."""


# --- what both keep -----------------------------------------------------------------------------


class Bundle(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """An open port; its fds travel along. ``driver``: the C port type and options that attach it.

    ``type`` and ``options`` are what was asked for ("veth" {"name": "v0"}), the driver's what the
    keeper made of it ("af_packet" {"ifname": "v0"}).
    """

    name: str
    type: str
    options: dict[str, str]
    driver: str
    driver_options: dict[str, str]
    state: str


class Region(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """A memfd, or a listening socket; the one fd travels along. Replaces one of that name."""

    name: str


class Session(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """A netmap program that has a port; its connection, its memory and what only it has travel
    along. Replaces the one of that number. ``state``: only forwarders read it."""

    id: int
    state: str


# --- keeper to forwarder ------------------------------------------------------------------------


class Prepare(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """To a new process: map the regions sent before this, drop privileges, answer ``Ready``."""

    uid: int
    gid: int
    control_gid: int
    keeper_uid: int
    limits: dict[str, int]


class Adopt(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """All bundles and regions were sent: you are the forwarder now."""

    restarts: int
    recover: bool
    port_types: dict[str, str]


class TakeBack(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """From a new keeper: send me all you hold, end with ``Holding``."""


class KeeperFacts(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """From a new keeper that has everything: requests are welcome again."""

    port_types: dict[str, str]


class Acquired(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Answer to ``Acquire``; ``code`` "" and the bundle, or why not."""

    id: int
    name: str
    code: str
    message: str
    bundle: Bundle | None


class Link(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """A kernel interface as it is now; ``gone``: it was removed."""

    ifindex: int
    name: str
    up: bool
    mtu: int
    gone: bool


class ValeSwitches(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """The netmap module's VALE switches as they are now: names of their ports."""

    switches: dict[str, tuple[str, ...]]


class Stop(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """End in good order."""


# --- forwarder to keeper ------------------------------------------------------------------------


class Ready(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Mapped, dropped, waiting for ``Adopt``."""

    pid: int


class Acquire(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    id: int
    name: str
    type: str
    options: dict[str, str]


class Release(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Nobody uses the port's fds any more: undo and close."""

    name: str


class Forget(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Close a region."""

    name: str


class SessionGone(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """The program has closed its port: close what was kept of it."""

    id: int


class Holding(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """End of the answer to ``TakeBack``."""

    pid: int
    restarts: int
    limits: dict[str, int]


class Refusal(msgspec.Struct, frozen=True, tag_field="t", tag=True):
    """Answer to ``TakeBack`` while the old keeper lives."""

    message: str


Message = (
    Bundle
    | Region
    | Session
    | Prepare
    | Adopt
    | TakeBack
    | KeeperFacts
    | Acquired
    | Link
    | ValeSwitches
    | Stop
    | Ready
    | Acquire
    | Release
    | Forget
    | SessionGone
    | Holding
    | Refusal
)

# Hands a message and fds to the keeper; False: there is none.
Send = Callable[[Message, Sequence[int]], bool]

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


@dataclass(frozen=True, slots=True)
class Packet:
    """A received message, its fds (now the receiver's to close), and who sent it if asked for."""

    message: Message
    fds: list[int]
    sender_pid: int | None = None
    sender_uid: int | None = None


def close_all(fds: Sequence[int]) -> None:
    """Close fds that are nobody's any more."""
    for fd in fds:
        os.close(fd)


class Channel:
    """One end. ``send`` never blocks: what the socket cannot take waits for :meth:`flush`."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._outbox: deque[tuple[bytes, list[int]]] = deque()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        while self._outbox:
            close_all(self._outbox.popleft()[1])
        self.sock.close()

    @property
    def waiting(self) -> bool:
        """Something is left to flush."""
        return bool(self._outbox)

    def send(self, message: Message, fds: Sequence[int] = ()) -> None:
        """Queue and flush. The fds are duplicated where they wait. ChannelClosed when it is."""
        body = _encoder.encode(message)
        if len(body) > PACKET_BYTES_MAX or len(fds) > FDS_MAX:
            raise ChannelError(f"{type(message).__name__} of {len(body)} bytes, {len(fds)} fds")
        if not self._outbox and self._transmit(body, fds):
            return
        self._outbox.append((body, [os.dup(fd) for fd in fds]))

    def flush(self) -> None:
        """Send what waits, as far as the socket takes it."""
        while self._outbox:
            body, fds = self._outbox[0]
            if not self._transmit(body, fds):
                return
            self._outbox.popleft()
            close_all(fds)

    def _transmit(self, body: bytes, fds: Sequence[int]) -> bool:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self.sock.sendmsg([body], rights, socket.MSG_NOSIGNAL)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            # Too many fds on their way: they arrive as the peer reads.
            if error.errno in (errno.ETOOMANYREFS, errno.ENOBUFS):
                return False
            raise ChannelClosed(str(error)) from error
        return True

    def receive(self) -> Iterator[Packet]:
        """Every packet there is now; ChannelClosed at the end of the stream."""
        room = socket.CMSG_SPACE(FDS_MAX * 4) + socket.CMSG_SPACE(_CREDENTIALS.size)
        while True:
            try:
                body, ancillary, flags, _ = self.sock.recvmsg(
                    PACKET_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if not body:
                raise ChannelClosed("end of stream")
            yield _packet(body, ancillary, flags)


def _packet(body: bytes, ancillary: list[tuple[int, int, bytes]], flags: int) -> Packet:
    fds: list[int] = []
    sender: tuple[int, int, int] | None = None
    for level, kind, data in ancillary:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            numbers = array.array("i")
            numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
            fds += numbers
        elif kind == socket.SCM_CREDENTIALS:
            sender = _CREDENTIALS.unpack(data[: _CREDENTIALS.size])
    try:
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ChannelError("a packet was cut")
        message = _decoder.decode(body)
    except (msgspec.DecodeError, ChannelError) as error:
        close_all(fds)
        raise ChannelError(str(error)) from error
    return Packet(message, fds, sender[0] if sender else None, sender[1] if sender else None)


def is_memory(fd: int) -> bool:
    """Only memory files have seals, set or not."""
    try:
        fcntl.fcntl(fd, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def peer_credentials(sock: socket.socket) -> tuple[int, int, int]:
    """(pid, uid, gid) of who connected, or of who listens."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid
