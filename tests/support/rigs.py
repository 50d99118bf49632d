"""The outside of a port, one class a type: frames towards the switch, frames from it.

A rig owns the port and the world behind it. ``send`` makes frames arrive at the port, ``receive``
returns what the switch sent out of it. Everything is byte for byte what a wire would carry.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from scapy.utils import RawPcapReader, RawPcapWriter

from tests.support.client_rig import ClientRig
from tests.support.netmap_rig import NetmapHostRig, NetmapRig
from tests.support.overlay import (
    SWITCH,
    UDP_PORT,
    VXLAN_PORT,
    UdpPeer,
    Underlay,
    overlay_datagram,
    udp_options,
    vxlan_datagram,
    vxlan_options,
)
from tests.support.pipe_rig import PipeRig, ValeRig
from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import Topology, linux_bridge_over, run, wait_until
from tests.support.wire import HostPort, in_netns

MTU = 9000


class Rig(Protocol):
    type: str
    port: Attached

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        """Acquire the port; the caller attaches it."""

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None: ...

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        """At least ``count`` frames, in order, and all that have come by then."""

    def close(self) -> None: ...


class MemoryRig:
    type = "memory"

    def __init__(self, home: Path) -> None:
        del home

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        self.port = acquire("p1", "memory", options)
        return self.port

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        switch.send(self.port, frames)

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        return switch.take(self.port, count)

    def close(self) -> None:
        pass


def pcap_write(path: Path, frames: Sequence[bytes]) -> None:
    """By scapy, so that the reader meets files that its own writer did not make."""
    with contextlib.closing(RawPcapWriter(str(path), linktype=1)) as writer:
        writer.write_header(None)
        for frame in frames:
            writer.write_packet(frame)


def pcap_read(path: Path) -> list[bytes]:
    if not path.exists() or path.stat().st_size <= 24:
        return []
    with contextlib.closing(RawPcapReader(str(path))) as reader:
        return [data for data, _ in reader]


class PcapRig:
    """A file has an end: each ``send`` opens the port again with a file of its own."""

    type = "pcap"

    def __init__(self, home: Path) -> None:
        self.home = home
        self._files = 0
        self._seen = 0
        self._options: dict[str, str] = {}

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        self._options = {"directory": str(self.home), "out": "out.pcap", "rate": "0", **options}
        self.port = acquire("p1", "pcap", self._options)
        return self.port

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        self._files += 1
        name = f"in-{self._files}.pcap"
        pcap_write(self.home / name, frames)
        switch.remove(self.port)
        self.port = switch.attach(acquire("p1", "pcap", {**self._options, "in": name}))

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        out = self.home / "out.pcap"
        wait_until(
            lambda: len(pcap_read(out)) - self._seen >= count, 10, f"{count} frames in the file"
        )
        frames = pcap_read(out)[self._seen :]
        self._seen += len(frames)
        return frames

    def close(self) -> None:
        pass


class NetdevRig:
    """A packet socket on the interface that is the port's other end."""

    type: str
    short_ring: ClassVar[Mapping[str, str]] = {}  # options that make its receive ring short
    number_at = 14  # where in a frame its number is
    port: Attached
    net: Topology
    peer: HostPort | UdpPeer

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        raise NotImplementedError

    def send(self, switch: Switch, frames: Sequence[bytes]) -> None:
        # As fast as the switch takes them: a kernel queue that overflows is another test.
        base = switch.counters(self.port).rx_frames
        for sent, frame in enumerate(frames):
            if sent % 64 == 0:
                wait_until(
                    lambda sent=sent: switch.counters(self.port).rx_frames - base > sent - 256,  # type: ignore[misc]
                    10,
                    "the switch takes frames",
                )
            self.peer.send(frame)

    def receive(self, switch: Switch, count: int) -> list[bytes]:
        frames: list[bytes] = []

        def enough() -> bool:
            frames.extend(self.peer.receive())
            return len(frames) >= count

        wait_until(enough, 10, f"{count} frames at {self.peer.ifname}")
        return frames

    def link(self, up: bool) -> None:
        """The interface that the port is bound to."""
        raise NotImplementedError

    def close(self) -> None:
        self.peer.close()
        self.net.close()


class AfPacketRig(NetdevRig):
    """veth: one end is the port's, a packet socket reads and writes the other."""

    type = "af_packet"
    options: ClassVar[Mapping[str, str]] = {}

    def __init__(self, home: Path) -> None:
        del home
        self.net = Topology(hosts=1, mtu=MTU, addresses=False).__enter__()
        self.peer = HostPort(self.net.hosts[0], self.net.host_ifs[0])

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        wanted = {"ifname": self.net.switch_ifs[0], **self.options, **options}
        self.port = in_netns(self.net.switch, lambda: acquire("p1", self.type, wanted))
        return self.port

    def link(self, up: bool) -> None:
        state = "up" if up else "down"
        run("ip", "-n", self.net.switch, "link", "set", self.net.switch_ifs[0], state)

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """The interface sends about a frame a second and queues two."""
        where = ("ip", "netns", "exec", self.net.switch, "tc", "qdisc")
        device = ("dev", self.net.switch_ifs[0], "root")
        run(*where, "add", *device, "tbf", "rate", "8kbit", "burst", "1600", "limit", "3000")
        yield
        run(*where, "del", *device)


class AfPacketV3Rig(AfPacketRig):
    options: ClassVar[Mapping[str, str]] = {"version": "3"}
    short_ring: ClassVar[Mapping[str, str]] = {"geometry_blocks": "8"}


class AfPacketV1Rig(AfPacketRig):
    """Version 1 carries no VLAN tags: where a test asks for some, it gets none."""

    options: ClassVar[Mapping[str, str]] = {"version": "1"}

    def frame(
        self, number: int, length: int = 60, *tags: tuple[int, int], source: int = 1, to: int = 2
    ) -> bytes:
        del tags
        return frame(number, length, source=source, to=to)


class AfPacketV1RingRig(AfPacketV1Rig):
    options: ClassVar[Mapping[str, str]] = {"version": "1", "ring": "both"}


class AfPacketV2RingRig(AfPacketRig):
    options: ClassVar[Mapping[str, str]] = {"version": "2", "ring": "both"}


class AfPacketV3RingRig(AfPacketV3Rig):
    options: ClassVar[Mapping[str, str]] = {"version": "3", "ring": "both"}


class AfPacket4Rig(AfPacketRig):
    options: ClassVar[Mapping[str, str]] = {"version": "2", "ring": "both", "queues": "4"}


class AfPacketV34Rig(AfPacketRig):
    options: ClassVar[Mapping[str, str]] = {"version": "3", "queues": "4"}


class AfXdpRig(AfPacketRig):
    type = "af_xdp"


class AfXdpGenericRig(AfXdpRig):
    """A Linux bridge is the port's interface: it has no XDP of its own, so the program runs where
    the stack begins, and the tags that the bridge has taken out are not seen there."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self._stack = contextlib.ExitStack()
        outside = (self.net.switch, self.net.switch_ifs, MTU, f"{self.net.prefix}b")
        self.device = self._stack.enter_context(linux_bridge_over(*outside))
        show = ("ip", "-n", self.net.switch, "-br", "link", "show", self.device)
        wait_until(lambda: "LOWER_UP" in run(*show) and " UP " in run(*show), 5, "it has a link")

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        return super().open({"ifname": self.device, **options})

    def frame(
        self, number: int, length: int = 60, *tags: tuple[int, int], source: int = 1, to: int = 2
    ) -> bytes:
        del tags
        return frame(number, length, source=source, to=to)

    def link(self, up: bool) -> None:
        run("ip", "-n", self.net.switch, "link", "set", self.device, "up" if up else "down")

    def close(self) -> None:
        self._stack.close()
        super().close()


class AfXdp4Rig(AfXdpRig):
    """A pair of four queues in each direction; the sender's stack spreads flows over them."""

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.peer.close()
        (ours,), (theirs,) = self.net.switch_ifs, self.net.host_ifs
        run("ip", "-n", self.net.switch, "link", "delete", ours)
        queues = ("mtu", str(MTU), "numrxqueues", "4", "numtxqueues", "4")
        run(
            *("ip", "-n", self.net.switch, "link", "add", ours, *queues, "type", "veth"),
            *("peer", "name", theirs, *queues, "netns", self.net.hosts[0]),
        )
        run("ip", "-n", self.net.switch, "link", "set", ours, "up")
        run("ip", "-n", self.net.hosts[0], "link", "set", theirs, "up")
        self.peer = HostPort(self.net.hosts[0], theirs)


class TapRig(NetdevRig):
    """The network interface of the TAP, used by a packet socket as a local stack would."""

    type = "tap"
    options: ClassVar[Mapping[str, str]] = {}
    peer_of: Callable[[str, str], HostPort] = HostPort

    def __init__(self, home: Path) -> None:
        del home
        self.net = Topology(hosts=1, addresses=False).__enter__()
        self.name = f"{self.net.prefix}t"
        self._opened = False

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        wanted = {"name": self.name, "mtu": str(MTU), **self.options, **options}
        self.port = in_netns(self.net.switch, lambda: acquire("p1", self.type, wanted))
        if self._opened:
            self.peer.close()
        self._opened = True
        self.peer = type(self).peer_of(self.net.switch, self.name)
        return self.port

    def link(self, up: bool) -> None:
        run("ip", "-n", self.net.switch, "link", "set", self.name, "up" if up else "down")
        if up:
            with contextlib.suppress(OSError):  # the peer's socket reports that it was down
                self.peer.receive()

    @contextlib.contextmanager
    def slow(self) -> Iterator[None]:
        """What the port sends goes on to an interface that sends about a frame a second."""
        out = self.net.switch_ifs[0]
        tc = ("tc", "-n", self.net.switch)
        shape = ("tbf", "rate", "8kbit", "burst", "1600", "limit", "1g")
        run(*tc, "qdisc", "add", "dev", out, "root", *shape)
        run(*tc, "qdisc", "add", "dev", self.name, "ingress")
        match = ("parent", "ffff:", "protocol", "all", "bpf", "bytecode", "1,6 0 0 4294967295")
        action = ("action", "mirred", "egress", "redirect", "dev", out)
        run(*tc, "filter", "add", "dev", self.name, *match, *action)
        yield
        run(*tc, "qdisc", "del", "dev", self.name, "ingress")
        run(*tc, "qdisc", "del", "dev", out, "root")

    def close(self) -> None:
        if self._opened:
            self.peer.close()
        self.net.close()


class Tap4Rig(TapRig):
    """The kernel spreads flows over the queues; frames without one stay in order."""

    options: ClassVar[Mapping[str, str]] = {"queues": "4"}


class TunPeer(HostPort):
    """The interface of a TUN: packets, seen as the frames that they are on the bridge.

    All are for groups, so that both Ethernet addresses follow from the packet: nobody has to be
    asked, and every frame that crosses is one that a test sent.
    """

    port_mac = b""

    def send(self, frame: bytes) -> None:
        super().send(frame[14:])

    def receive(self) -> list[bytes]:
        return [self._header(packet) + packet for packet in super().receive()]

    def _header(self, packet: bytes) -> bytes:
        v6 = packet[0] >> 4 == 6
        source, to = (packet[23], packet[39]) if v6 else (packet[15], packet[19])
        return tun_header(self.port_mac, v6, source, to)


def tun_header(port_mac: bytes, v6: bool, source: int, to: int) -> bytes:
    group = b"\x33\x33\x00\x7f\x00" if v6 else b"\x01\x00\x5e\x7f\x00"
    station = port_mac if source != 2 else b"\x02\x00\x00\xfd\x00" + bytes([source])
    return group + bytes([to]) + station + (b"\x86\xdd" if v6 else b"\x08\x00")


class TunRig(TapRig):
    """A TUN carries IP packets only, so its frames are such, and there are none with tags: where
    a test asks for tags it gets IPv6."""

    type = "tun"
    peer: TunPeer
    peer_of = TunPeer
    number_at = 34

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        port = super().open(options)
        state = dict(pair.split("=") for pair in port.state.split())
        mac = int(state["mac_high"]) << 32 | int(state["mac_low"])
        self.peer.port_mac = mac.to_bytes(6, "big")
        return port

    def frame(
        self, number: int, length: int = 60, *tags: tuple[int, int], source: int = 1, to: int = 2
    ) -> bytes:
        """As the module's frame(): ``length`` bytes that carry a number."""
        v6, size = bool(tags), max(length, 58 if tags else 38) - 14
        body = number.to_bytes(4, "big") + bytes((number + i) & 0xFF for i in range(size))
        if v6:
            addresses = b"\xfd" + bytes(14) + bytes([source])
            addresses += b"\xff\x12" + bytes(10) + b"\x00\x7f\x00" + bytes([to])
            head = struct.pack("!IHBB", 6 << 28, size - 40, 253, 9) + addresses
        else:
            addresses = bytes([10, 0, 0, source, 239, 127, 0, to])
            head = struct.pack("!BBHIBBH", 0x45, 0, size, 0, 9, 253, 0) + addresses
        return tun_header(self.peer.port_mac, v6, source, to) + (head + body)[:size]


class OverlayRig(NetdevRig):
    """A socket at the other end of a veth pair that speaks the encapsulation."""

    net: Underlay
    peer: UdpPeer
    udp_port: int
    encode: Callable[[bytes], bytes]

    def __init__(self, home: Path) -> None:
        del home
        # Room for the outer headers: what is fragmented may be lost in parts.
        self.net = Underlay(hosts=1, mtu=MTU + 100).__enter__()
        try:
            self.peer = UdpPeer(
                self.net.hosts[0],
                (self.net.addresses[0], self.udp_port),
                (SWITCH, self.udp_port),
                type(self).encode,
            )
        except BaseException:
            self.net.close()
            raise

    def wanted(self) -> dict[str, str]:
        raise NotImplementedError

    def open(self, options: Mapping[str, str] = {}) -> Attached:
        wanted = self.wanted() | dict(options)
        self.port = in_netns(self.net.switch, lambda: acquire("p1", self.type, wanted))
        return self.port

    def link(self, up: bool) -> None:
        set_link = ("ip", "-n", self.net.switch, "link", "set", self.net.switch_ifs[0])
        run(*set_link, "up" if up else "down")
        if up:
            self.net.route(0)  # went with the link


class VxlanRig(OverlayRig):
    type = "vxlan"
    udp_port = VXLAN_PORT
    encode = staticmethod(vxlan_datagram)

    def wanted(self) -> dict[str, str]:
        # One source port, so that frames of different flows keep their order too.
        return vxlan_options(self.net.addresses[:1]) | {"source_ports": "1"}


class UdpRig(OverlayRig):
    type = "udp"
    udp_port = UDP_PORT
    encode = staticmethod(overlay_datagram)

    def wanted(self) -> dict[str, str]:
        return udp_options(self.net.addresses[:1])


NETDEV_RIGS: dict[str, Callable[[Path], NetdevRig]] = {
    "af_packet-v1": AfPacketV1Rig,
    "af_packet-v1-ring": AfPacketV1RingRig,
    "af_packet-v2": AfPacketRig,
    "af_packet-v2-ring": AfPacketV2RingRig,
    "af_packet-v3": AfPacketV3Rig,
    "af_packet-v3-ring": AfPacketV3RingRig,
    "af_xdp": AfXdpRig,
    "af_xdp-generic": AfXdpGenericRig,
    "tap": TapRig,
    "tun": TunRig,
    "udp": UdpRig,
    "vxlan": VxlanRig,
}
RIGS: dict[str, Callable[[Path], Rig]] = {
    "client": ClientRig,
    "memory": MemoryRig,
    "netmap": NetmapRig,
    "netmap-host": NetmapHostRig,
    "pcap": PcapRig,
    "pipe": PipeRig,
    "vale": ValeRig,
    **NETDEV_RIGS,
}

TAG_C, TAG_S = 0x8100, 0x88A8


def frame(
    number: int, length: int = 60, *tags: tuple[int, int], source: int = 1, to: int = 2
) -> bytes:
    """A frame of ``length`` bytes, its ``tags`` (TPID, TCI) included, that carries a number.

    Source and destination are locally administered addresses; the EtherType is an experimental
    one, so that no stack answers.
    """
    head = bytes([2, 0, 0, 0xFD, 0, to, 2, 0, 0, 0xFD, 0, source])
    head += b"".join(struct.pack("!HH", *tag) for tag in tags) + b"\x88\xb5"
    body = number.to_bytes(4, "big") + bytes((number + i) & 0xFF for i in range(length))
    return (head + body)[:length]
