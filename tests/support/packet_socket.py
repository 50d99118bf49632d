"""Packet sockets in other namespaces, with the kernel's offload state beside each frame."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from tests.support.offload import CSUM_NEEDED, Offload

ETH_P_ALL = 0x0003
SOL_PACKET = 263
SO_RCVBUFFORCE = 33
PACKET_AUXDATA, PACKET_VNET_HDR = 8, 15
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
VNET_HDR_BYTES = 10

T = TypeVar("T")


def in_netns(name: str, work: Callable[[], T]) -> T:
    """Runs work in a thread that lives in the namespace: what it opens belongs there."""
    libc = ctypes.CDLL(None, use_errno=True)
    results: list[T] = []
    errors: list[BaseException] = []

    def inside() -> None:
        try:
            fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
            status = libc.setns(fd, 0)
            os.close(fd)
            if status != 0:
                raise OSError(ctypes.get_errno(), "setns")
            results.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


class PacketSocket:
    """Frames of one interface as they are on the wire, tags in line.

    offloads    with the state a device would be asked to finish; without it, a frame that is
                unfinished looks the same as one whose checksum is wrong
    """

    def __init__(self, netns: str, ifname: str, *, offloads: bool = False) -> None:
        self._header = VNET_HDR_BYTES if offloads else 0
        self._socket = in_netns(netns, lambda: self._open(ifname))

    def _open(self, ifname: str) -> socket.socket:
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
        sock.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        if self._header:
            sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        sock.bind((ifname, ETH_P_ALL))
        return sock

    def send(self, frame: bytes, offload: Offload | None = None) -> None:
        """OSError(EINVAL) when the kernel finds that state and frame do not fit."""
        header = (offload or Offload()).pack() if self._header else b""
        self._socket.send(header + frame)

    def receive(self, timeout_s: float = 5) -> tuple[bytes, Offload]:
        """The next frame that came in; TimeoutError when there is none in time."""
        while True:
            if not select.select([self._socket], [], [], timeout_s)[0]:
                raise TimeoutError(f"no frame arrived within {timeout_s} s")
            data, ancillary, _, address = self._socket.recvmsg(70000, socket.CMSG_SPACE(20))
            if address[2] == socket.PACKET_OUTGOING:
                continue
            frame, tag, state = data[self._header :], _removed_tag(ancillary), Offload()
            if self._header:
                state = Offload(*struct.unpack("=BBHHHH", data[: self._header]))
                if state.flags & CSUM_NEEDED:
                    state = replace(state, csum_start=state.csum_start + len(tag))
            return frame[:12] + tag + frame[12:], state

    def until(self, mark: bytes, timeout_s: float = 5) -> list[tuple[bytes, Offload]]:
        """Everything that came in before the frame `mark`, which is taken too."""
        frames = []
        while (received := self.receive(timeout_s))[0] != mark:
            frames.append(received)
        return frames

    def close(self) -> None:
        self._socket.close()


def _removed_tag(ancillary: list[tuple[int, int, bytes]]) -> bytes:
    """The tag that the kernel took out of the frame; empty: there was none."""
    for _, kind, body in ancillary:
        status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", body)
        if kind == PACKET_AUXDATA and status & TP_STATUS_VLAN_VALID:
            if not status & TP_STATUS_VLAN_TPID_VALID:
                raise ValueError("a tag without its TPID")
            return struct.pack("!HH", tpid, tci)
    return b""


def mark_frame(number: int) -> bytes:
    """A broadcast frame of 60 bytes that stands for an end: an experimental EtherType."""
    return bytes.fromhex("ffffffffffff 020000000003 88b5") + number.to_bytes(46)
