"""The outer ends of a topology as packet sockets: frames in, frames out, byte for byte.

A kernel that receives a tagged frame moves the first tag out of the bytes; it is put back here,
so that what a host reads is what was on the wire.
"""

from __future__ import annotations

import ctypes
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tests.support.topology import Topology

T = TypeVar("T")

_ETH_P_ALL = 0x0003
_SOL_PACKET = 263
_PACKET_ADD_MEMBERSHIP = 1
_PACKET_AUXDATA = 8
_PACKET_IGNORE_OUTGOING = 23
_PACKET_MR_PROMISC = 1
_SO_RCVBUFFORCE = 33
_CLONE_NEWNET = 0x40000000
_TP_STATUS_VLAN_VALID = 1 << 4
_TP_STATUS_VLAN_TPID_VALID = 1 << 6
_AUXDATA = struct.Struct("=IIIHHHH")  # status, len, snaplen, mac, net, vlan_tci, vlan_tpid
_AUX_SPACE = socket.CMSG_SPACE(_AUXDATA.size)

END_MARK = b"the end."

_libc = ctypes.CDLL(None, use_errno=True)


def in_netns(name: str, call: Callable[[], T]) -> T:
    """Runs call() on this thread inside a named network namespace; what it opens stays there."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    there = os.open(Path("/run/netns", name), os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(there, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns to {name}")
        try:
            return call()
        finally:
            if _libc.setns(here, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns back")
    finally:
        os.close(there)
        os.close(here)


class HostPort:
    """A packet socket on one host's end of its veth pair."""

    def __init__(self, netns: str, ifname: str) -> None:
        self.ifname = ifname
        self._socket = in_netns(netns, self._open)

    def _open(self) -> socket.socket:
        # Protocol 0 until everything is set: nothing from another interface gets in.
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        index = socket.if_nametoindex(self.ifname)
        sock.setsockopt(
            _SOL_PACKET,
            _PACKET_ADD_MEMBERSHIP,
            struct.pack("=iHH8s", index, _PACKET_MR_PROMISC, 0, b""),
        )
        sock.bind((self.ifname, _ETH_P_ALL))
        return sock

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def send_all(self, frames: Sequence[bytes]) -> None:
        for frame in frames:
            self.send(frame)

    def receive(self) -> list[bytes]:
        """Everything that has arrived, oldest first; returns at once."""
        frames: list[bytes] = []
        recvmsg = self._socket.recvmsg
        while True:
            try:
                frame, control, _, _ = recvmsg(65600, _AUX_SPACE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return frames
            for _, kind, data in control:
                if kind == _PACKET_AUXDATA:
                    status, _, _, _, _, tci, tpid = _AUXDATA.unpack(data[: _AUXDATA.size])
                    if status & _TP_STATUS_VLAN_VALID:
                        if not status & _TP_STATUS_VLAN_TPID_VALID:
                            tpid = 0x8100
                        frame = frame[:12] + struct.pack("!HH", tpid, tci) + frame[12:]
            frames.append(frame)

    def close(self) -> None:
        self._socket.close()


class Wire:
    """The host ends of all pairs of a topology; use as a context manager."""

    def __init__(self, net: Topology) -> None:
        self.ports = [
            HostPort(netns, ifname) for netns, ifname in zip(net.hosts, net.host_ifs, strict=True)
        ]

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        for port in self.ports:
            port.close()

    def receive(self) -> list[list[bytes]]:
        """What has arrived at each host."""
        return [port.receive() for port in self.ports]

    def exchange(
        self, source: int, frames: Sequence[bytes], ends: Sequence[tuple[bytes, frozenset[int]]]
    ) -> list[list[bytes]]:
        """Sends frames from one host and returns what every host received, in order.

        ends are (frame, hosts): frames sent last, each of which must reach those hosts. A switch
        that keeps order has then delivered everything before it too. Their last 16 bytes are
        END_MARK and what tells one from the other; they are not returned, late copies of earlier
        ones neither. TimeoutError after 5 s.
        """
        port = self.ports[source]
        for frame in frames:
            port.send(frame)
        waiting: set[tuple[int, bytes]] = set()
        for frame, hosts in ends:
            waiting |= {(host, frame[-16:]) for host in hosts}
            port.send(frame)
        received: list[list[bytes]] = [[] for _ in self.ports]
        deadline = time.monotonic() + 5
        while True:
            for host, got in enumerate(self.receive()):
                for frame in got:
                    if frame[-16:-8] == END_MARK:
                        waiting.discard((host, frame[-16:]))
                    else:
                        received[host].append(frame)
            if not waiting:
                return received
            if time.monotonic() > deadline:
                hosts_left = sorted({host for host, _ in waiting})
                raise TimeoutError(f"the end mark from host {source} never reached {hosts_left}")
            select.select(self.ports, [], [], 0.05)
