"""offload.c against the kernel's own segmentation.

    test process                  switch namespace                    host namespace
    +----------+  virtio-net  +------------------------+          +-------------------+
    | fd of    |==============| tap0 -- bridge -- p0   |==========| h0: packet socket |
    | the TAP  |    header    |        tx, tso, gso off|   veth   |                   |
    +----------+              +------------------------+          +-------------------+

p0 takes nothing unfinished, so the kernel completes in software what we wrote; h0 sees the result.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import TCP
from scapy.packet import Packet

from tests.support import offload
from tests.support.offload import Offload
from tests.support.offload_model import gso_type, l4_of, packets, unfinished
from tests.support.packet_socket import PacketSocket, in_netns, mark_frame
from tests.support.topology import Topology, run

pytestmark = pytest.mark.root

TUNSETIFF, TUNSETVNETHDRSZ = 0x400454CA, 0x400454D8
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000


def open_tap(name: str) -> int:
    fd = os.open("/dev/net/tun", os.O_RDWR)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", 10))
    return fd


class Kernel:
    """What the kernel makes of a frame with offload state on its way to a plain device."""

    def __init__(self, net: Topology) -> None:
        self.tap = in_netns(net.switch, lambda: open_tap("tap0"))
        port, host = net.switch_ifs[0], net.host_ifs[0]
        for what in ("tx", "tso", "gso", "txvlan", "tx-vlan-stag-hw-insert"):
            net.run(net.switch, "ethtool", "-K", port, what, "off")
        net.run(net.hosts[0], "ethtool", "-K", host, "gro", "off")
        bridge = ("name", "bridge0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", net.switch, "link", "add", *bridge)
        for name in ("tap0", port):
            run("ip", "-n", net.switch, "link", "set", name, "master", "bridge0", "mtu", "9000")
        for name in ("tap0", port, "bridge0"):
            run("ip", "-n", net.switch, "link", "set", name, "up")
        self.capture = PacketSocket(net.hosts[0], host)
        self.marks = itertools.count()

    def complete(self, frame: bytes, state: Offload) -> list[bytes]:
        """The frames that arrive before the mark that is sent behind the frame."""
        mark = mark_frame(next(self.marks))
        os.write(self.tap, state.pack() + frame)
        os.write(self.tap, Offload().pack() + mark)
        return [data for data, _ in self.capture.until(mark)]

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


@settings(max_examples=200, deadline=None)
@given(packet=packets(), mss=st.integers(500, 3000), segmented=st.booleans())
def test_same_bytes_as_the_kernel(
    kernel: Kernel, packet: Packet, mss: int, segmented: bool
) -> None:
    frame, start, place = unfinished(packet)
    # The kernel drops what says it is to be cut and fits one segment; ours is lenient.
    segmented = (segmented or len(frame) > 8000) and len(l4_of(packet).payload) > mss
    state = Offload(
        offload.CSUM_NEEDED,
        gso_type(packet) if segmented else 0,
        hdr_len=len(frame) - len(l4_of(packet).payload),
        gso_size=mss if segmented else 0,
        csum_start=start,
        csum_offset=place,
    )
    ours = [alike(segment.data, packet, start) for segment in offload.cut(frame, state)]
    theirs = [alike(segment, packet, start) for segment in kernel.complete(frame, state)]
    assert ours == theirs
