"""Packet rings as the kernel leaves them, for ports that nobody attaches."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tests.support.rigs import AfPacketRig, frame
from tests.support.switch import Attached, Switch

SOL_PACKET = 263
PACKET_STATISTICS = 6
VERSIONS = (1, 2, 3)
SMALL_SLOTS = {"geometry_block_bytes": "4096", "geometry_blocks": "32"}  # 64 of 2 KB


class Slot(NamedTuple):
    """A receive slot's header; ``ns`` since 1970."""

    status: int
    len: int
    snaplen: int
    mac: int
    net: int
    ns: int


@contextlib.contextmanager
def held(attached: Attached) -> Iterator[Attached]:
    """A port that nobody attaches."""
    try:
        yield attached
    finally:
        Switch.release(attached)


def ring(attached: Attached, length: int, queue: int = 0) -> mmap.mmap:
    return mmap.mmap(attached.fds[1 + queue], length)


def slot(view: mmap.mmap, version: int, at: int) -> Slot:
    if version == 1:
        *fields, sec, usec = struct.unpack_from("=QIIHHII", view, at)
        return Slot(*fields, sec * 10**9 + usec * 1000)
    *fields, sec, nsec = struct.unpack_from("=IIIHHII", view, at)
    return Slot(*fields, sec * 10**9 + nsec)


def statistics(attached: Attached, queue: int = 0) -> tuple[int, int]:
    """Packets (dropped ones included) and drops since the last look at one socket."""
    with socket.socket(fileno=os.dup(attached.fds[1 + queue])) as sock:
        packets, drops = struct.unpack("=II", sock.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
    return packets, drops


def udp_frame(number: int, length: int = 60, source: int = 1, port: int = 1000) -> bytes:
    udp = struct.pack("!HHHH", port, 9, length - 34, 0) + number.to_bytes(4, "big")
    head = struct.pack("!BBHIBBH", 0x45, 0, length - 14, 0, 64, 17, 0)
    ip = head + bytes((192, 0, 2, source, 198, 51, 100, 1))
    return (frame(0)[:12] + b"\x08\x00" + ip + udp + bytes(length))[:length]


def pump(switch: Switch, rig: AfPacketRig, frames: Sequence[bytes], inside: Attached) -> None:
    """Frames from the peer, through the switch, to a memory port."""
    rig.send(switch, frames)
    assert switch.take(inside, len(frames)) == list(frames)
