"""What is measured between two hosts, beside whom, and what is wanted of it.

A peer's number is the least ratio that is wanted beside it, None where it is shown only.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.cases import Case, Peers, forward, idle, ping, tcp
from tests.bench.joined import BridgePair, KernelTunnel, OursPipe, OursTunnel
from tests.bench.peers import PEERS, Peer, dpdk, ovs, vde
from tests.bench.subjects import Bridge, Ours, OursTap, Plain
from tests.support.probes import Generator, XdpGenerator

AF_PACKET = "vswitch af_packet"
AF_XDP = "vswitch af_xdp"
TAP = "vswitch tap"
VXLAN = "vswitch vxlan"
UDP = "vswitch udp"
PIPE = "vswitch pipe"
BRIDGE = "linux-bridge"
BRIDGE_VXLAN = "linux-bridge vxlan"
TWO_BRIDGES = "two linux-bridges"
NOTHING = "no switch"

SUBJECTS: dict[str, Peer] = {
    AF_PACKET: Peer(Ours),
    AF_XDP: Peer(lambda: Ours(kind="af_xdp")),
    TAP: Peer(OursTap),
    PIPE: Peer(OursPipe),
    VXLAN: Peer(lambda: OursTunnel("vxlan")),
    UDP: Peer(lambda: OursTunnel("udp")),
    BRIDGE: Peer(Bridge),
    BRIDGE_VXLAN: Peer(KernelTunnel),
    TWO_BRIDGES: Peer(BridgePair),
    NOTHING: Peer(Plain),
    **PEERS,
}

SIZES = (("64 B", 60), ("1500 B", 1514))
PACKET_PEERS: Peers = {
    BRIDGE: 1.05,
    ovs.NETDEV: 2.0,
    ovs.DPDK_PACKET: 1.1,
    dpdk.PACKET: 1.0,
    NOTHING: None,
}
XDP_PEERS: Peers = {
    BRIDGE: 1.2,
    ovs.AFXDP: 1.1,
    ovs.DPDK_XDP: 1.1,
    dpdk.XDP: 1.0,
}
TCP_PEERS: Peers = {
    BRIDGE: 1.0,
    ovs.TSO: 1.0,
    ovs.NETDEV: 5.0,
    ovs.DPDK_PACKET: 5.0,
    dpdk.PACKET: 5.0,
}
# Round trips in µs, both ends on one processor.
ROUND_TRIP = {"value": 25.0, "p99_us": 45.0}
IDLE = {"value": 1.0}


def _rates() -> Iterator[Case]:
    for label, frame_bytes in SIZES:
        for macs in (1, 1000):
            what = f"{label}, {macs:,} MAC{'s' if macs > 1 else ''}"
            others = {vde.NAME: None} if macs == 1 else {}
            yield Case(
                f"veth to veth, {what}",
                "frames/s",
                forward(frame_bytes, macs),
                AF_PACKET,
                {**PACKET_PEERS, **others},
            )
    for label, frame_bytes in SIZES:
        for sender, generator in (("", Generator), (", XDP sender", XdpGenerator)):
            yield Case(
                f"veth to veth, XDP sockets, {label}{sender}",
                "frames/s",
                forward(frame_bytes, generator=generator),
                AF_XDP,
                XDP_PEERS,
            )
    for label, frame_bytes in SIZES:
        beside: Peers = {BRIDGE: None, vde.NAME: None}
        yield Case(f"tap to tap, {label}", "frames/s", forward(frame_bytes, 1), TAP, beside)
    yield Case("through a pipe, 64 B", "frames/s", forward(60, 1), PIPE, {TWO_BRIDGES: None})
    for kind, ours in (("vxlan", VXLAN), ("udp", UDP)):
        yield Case(f"{kind}, 64 B", "frames/s", forward(60, 1), ours, {BRIDGE_VXLAN: 1.3})


def _tcp() -> Iterator[Case]:
    def case(name: str, ours: str, peers: Peers, **how: object) -> Case:
        return Case(name, "Gbit/s", tcp(**how), ours, peers)  # type: ignore[arg-type]

    yield case("TCP, vxlan", VXLAN, {BRIDGE_VXLAN: 1.0})
    yield case("TCP, udp", UDP, {BRIDGE_VXLAN: 1.0})
    for kind, ours, peers in (
        ("af_packet", AF_PACKET, TCP_PEERS),
        ("tap", TAP, {BRIDGE: 1.0, vde.NAME: 5.0}),
    ):
        yield case(f"TCP, {kind}", ours, peers)
        yield case(f"TCP, {kind}, ends on one CPU", ours, {BRIDGE: None}, one_cpu=True)
        yield case(f"TCP with BBR, {kind}", ours, {BRIDGE: None}, congestion="bbr")


def _latency() -> Iterator[Case]:
    pollers: Peers = {ovs.NETDEV: None, ovs.DPDK_PACKET: None, dpdk.PACKET: None}
    xdp_pollers: Peers = {ovs.AFXDP: None, ovs.DPDK_XDP: None, dpdk.XDP: None}
    for kind, ours, peers in (
        ("af_packet", AF_PACKET, {BRIDGE: None, **pollers, NOTHING: None}),
        ("af_xdp", AF_XDP, {BRIDGE: None, **xdp_pollers}),
        ("tap", TAP, {BRIDGE: None, vde.NAME: None}),
    ):
        yield Case(f"ping-pong, {kind}", "µs", ping, ours, peers, False, ROUND_TRIP)
    yield Case("idle, af_packet", "% of a CPU", idle, AF_PACKET, pollers, False, IDLE)
    yield Case("idle, af_xdp", "% of a CPU", idle, AF_XDP, xdp_pollers, False, IDLE)


CASES: list[Case] = [*_rates(), *_tcp(), *_latency()]
