"""TAP ports, and offload.c against the kernel's own segmentation.

    test process                  switch namespace                    host namespace
    +----------+  virtio-net  +------------------------+          +-------------------+
    | fd of    |==============| tap --- bridge --- p0  |==========| h0: packet socket |
    | the TAP  |    header    |        tx, tso, gso off|   veth   |                   |
    +----------+              +------------------------+          +-------------------+

p0 takes nothing unfinished, so the kernel completes in software what we wrote; h0 sees the result.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP
from scapy.packet import Packet

from tests.support import offload
from tests.support.offload import Offload
from tests.support.offload_model import gso_type, l4_of, packets, unfinished
from tests.support.topology import Topology, run

pytestmark = pytest.mark.root

T = TypeVar("T")

TUNSETIFF, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
ETH_P_ALL = 0x0003
SO_RCVBUFFORCE = 33
PACKET_AUXDATA = 8
TP_STATUS_VLAN_VALID, TP_STATUS_VLAN_TPID_VALID = 1 << 4, 1 << 6
MARK = bytes.fromhex("ffffffffffff 020000000003 88b5")  # an experimental EtherType


def in_netns(name: str, work: Callable[[], T]) -> T:
    """Runs work in a thread that lives in the namespace: what it opens belongs there."""
    libc = ctypes.CDLL(None, use_errno=True)
    results: list[T] = []

    def inside() -> None:
        fd = os.open(f"/run/netns/{name}", os.O_RDONLY)
        if libc.setns(fd, 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(fd)
        results.append(work())

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    return results[0]


def open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
    return fd


def open_capture(name: str) -> socket.socket:
    capture = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    capture.bind((name, ETH_P_ALL))
    capture.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    capture.setsockopt(263, PACKET_AUXDATA, 1)
    return capture


def receive(capture: socket.socket) -> bytes:
    """The next frame as it was on the wire: the tag that the kernel took out is put back."""
    while True:
        readable, _, _ = select.select([capture], [], [], 5)
        assert readable, "nothing arrived within 5 s"
        data, ancillary, _, address = capture.recvmsg(70000, socket.CMSG_SPACE(20))
        if address[2] == socket.PACKET_OUTGOING:
            continue
        for _, kind, body in ancillary:
            status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", body)
            if kind == PACKET_AUXDATA and status & TP_STATUS_VLAN_VALID:
                assert status & TP_STATUS_VLAN_TPID_VALID
                data = data[:12] + struct.pack("!HH", tpid, tci) + data[12:]
        return data


class Kernel:
    """What the kernel makes of a frame with offload state on its way to a plain device."""

    def __init__(self, net: Topology) -> None:
        self.tap = in_netns(net.switch, lambda: open_tap("tap0"))
        port, host = net.switch_ifs[0], net.host_ifs[0]
        for what in ("tx", "tso", "gso", "txvlan", "tx-vlan-stag-hw-insert"):
            net.run(net.switch, "ethtool", "-K", port, what, "off")
        net.run(net.hosts[0], "ethtool", "-K", host, "gro", "off")
        run(
            "ip",
            "-n",
            net.switch,
            "link",
            "add",
            "name",
            "bridge0",
            "type",
            "bridge",
            "mcast_snooping",
            "0",
        )
        for name in ("tap0", port, "bridge0"):
            if name != "bridge0":
                run("ip", "-n", net.switch, "link", "set", name, "master", "bridge0", "mtu", "9000")
            run("ip", "-n", net.switch, "link", "set", name, "up")
        self.capture = in_netns(net.hosts[0], lambda: open_capture(host))
        self.marks = itertools.count()
        self.complete(None)

    def complete(self, frame: tuple[bytes, Offload] | None) -> list[bytes]:
        """The frames that arrive behind the last mark and before the next."""
        if frame is not None:
            os.write(self.tap, frame[1].pack() + frame[0])
        mark = MARK + next(self.marks).to_bytes(46)
        os.write(self.tap, Offload().pack() + mark)
        frames = []
        while (data := receive(self.capture)) != mark:
            frames.append(data)
        return frames

    def close(self) -> None:
        os.close(self.tap)
        self.capture.close()


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with Topology(hosts=1, mtu=9000, addresses=False) as net:
        kernel = Kernel(net)
        yield kernel
        kernel.close()


def alike(frame: bytes, packet: Packet, start: int) -> bytes:
    """A TCP checksum of 0 may be written as ffff; the kernel does so in one of its two ways."""
    if TCP in packet and frame[start + 16 : start + 18] == b"\xff\xff":
        return frame[: start + 16] + b"\0\0" + frame[start + 18 :]
    return frame


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(packet=packets(), mss=st.integers(500, 3000), segmented=st.booleans())
def test_same_bytes_as_the_kernel(
    kernel: Kernel, packet: Packet, mss: int, segmented: bool
) -> None:
    frame, start, place = unfinished(packet)
    state = Offload(
        offload.CSUM_NEEDED,
        gso_type(packet) if segmented else 0,
        hdr_len=len(frame) - len(l4_of(packet).payload),
        gso_size=mss if segmented else 0,
        csum_start=start,
        csum_offset=place,
    )
    if not segmented and len(frame) > 8000:
        return
    ours = [alike(segment.data, packet, start) for segment in offload.cut(frame, state)]
    theirs = [alike(segment, packet, start) for segment in kernel.complete((frame, state))]
    assert ours == theirs
