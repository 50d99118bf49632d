"""TUN ports: IP stacks without Ethernet as stations of a bridge.

   host 0                     test process                      host 1
+------------+        +---------------------------+        +------------+
| tun0  (ns) |========| port a    bridge   port b |========| tun1  (ns) |
+------------+   fd   |           port m          |   fd   +------------+
                      +---------------------------+
                        memory: this process is a station of the bridge
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address

import msgspec
import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    in6_getnsma,
    in6_getnsmac,
)
from scapy.layers.l2 import ARP, LLC, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.support.switch import Attached, Switch, acquire
from tests.support.topology import Topology, run, wait_said, wait_until
from tests.support.wire import HostPort, in_netns

pytestmark = pytest.mark.root


@pytest.fixture
def net() -> Iterator[Topology]:
    with Topology(hosts=2, addresses=False) as net:
        yield net


@pytest.fixture
def switch() -> Iterator[Switch]:
    with Switch() as switch:
        yield switch


def ipv6_on(net: Topology, netns: str) -> None:
    for where in ("all", "default"):
        net.sysctl(netns, f"net.ipv6.conf.{where}.disable_ipv6", "0")


def join(net: Topology, switch: Switch, host: int, kind: str, **options: str) -> Attached:
    """A port whose device is host's interface, with addresses 10.7.0.x and fd07::x."""
    netns, name = net.hosts[host], f"{kind}{host}"
    attached = switch.attach(
        in_netns(net.switch, lambda: acquire(f"p{host}", kind, {"name": name, **options}))
    )
    run("ip", "-n", net.switch, "link", "set", name, "netns", netns)
    ipv6_on(net, netns)
    run("ip", "-n", netns, "link", "set", name, "up")
    run("ip", "-n", netns, "address", "add", f"10.7.0.{host + 1}/24", "dev", name)
    run("ip", "-n", netns, "address", "add", f"fd07::{host + 1}/64", "dev", name, "nodad")
    return attached


def iperf(net: Topology, target: str, *options: str) -> dict[str, float]:
    """From host 0 to host 1."""
    server = net.start(net.hosts[1], "iperf3", "-s", "-1", "--forceflush")
    wait_said(server, "listening")
    report = json.loads(net.run(net.hosts[0], "iperf3", "-J", "-c", target, *options))
    server.wait(10)
    end: dict[str, dict[str, float]] = report["end"]
    return {
        "received_bytes": end["sum_received"]["bytes"],
        "retransmits": end["sum_sent"].get("retransmits", 0),
    }


def ping(net: Topology, host: int, target: str, *options: str) -> None:
    net.run(net.hosts[host], "ping", "-c", "3", "-i", "0.05", "-W", "3", *options, target)


@pytest.mark.parametrize("kinds", [("tun", "tun"), ("tun", "tap"), ("tap", "tun")])
def test_T2_ping_across(net: Topology, switch: Switch, kinds: tuple[str, str]) -> None:
    """Nothing is configured but names: each side is found by asking."""
    ports = [join(net, switch, host, kind) for host, kind in enumerate(kinds)]
    for target in ("10.7.0.2", "fd07::2"):
        ping(net, 0, target)
    ping(net, 1, "fd07::1", "-s", "1400", "-M", "do")
    switch.settle()
    for attached, kind in zip(ports, kinds, strict=True):
        counters = switch.counters(attached)
        assert counters.tx_drops.keys() <= {"link_down"}  # while its interface moved
        if kind == "tun":
            assert counters.originated > 0
            assert counters.consumed > 0


@pytest.mark.parametrize("kinds", [("tun", "tun"), ("tun", "tap"), ("tap", "tun")])
def test_T2_tcp_with_all_offloads_on(net: Topology, switch: Switch, kinds: tuple[str, str]) -> None:
    """Segments of 64 KB cross whole; offsets of their unfinished checksums follow the header."""
    ports = [join(net, switch, host, kind) for host, kind in enumerate(kinds)]
    ping(net, 0, "10.7.0.2")
    for target in ("10.7.0.2", "fd07::2"):
        before = switch.counters(ports[0])
        result = iperf(net, target, "-n", "50M")
        assert result["received_bytes"] > 25 << 20  # what is on its way at the end is not counted
        assert result["retransmits"] < 50
        after = switch.counters(ports[0])
        moved = after.rx_bytes - before.rx_bytes
        assert moved / (after.rx_frames - before.rx_frames) > 2 * 1500
    switch.settle()
    for attached in ports:
        assert switch.counters(attached).segments == 0


def test_T2_tcp_completed_for_a_port_that_takes_nothing_unfinished(
    net: Topology, switch: Switch
) -> None:
    """A policy that completes: the other TUN gets whole packets with right checksums only."""
    join(net, switch, 0, "tun")
    attached = join(net, switch, 1, "tun")
    attached.spec = msgspec.structs.replace(attached.spec, offload_policy="complete")
    switch.publish()
    for target in ("10.7.0.2", "fd07::2"):
        result = iperf(net, target, "-n", "5M")
        assert result["received_bytes"] > 1 << 20
    assert switch.counters(attached).segments > 1000


# --- a station of this process: what exactly the port says and takes ------------------------------

STATION, OTHER = "02:00:00:00:00:02", "02:00:00:00:00:03"


@dataclass
class Bench:
    """A TUN whose interface stays in the switch's namespace, and a memory port."""

    net: Topology
    switch: Switch
    tun: Attached
    memory: Attached
    outside: HostPort

    @property
    def mac(self) -> str:
        return self.switch.status(self.tun).mac

    def send(self, *frames: Packet) -> None:
        """From the bridge; returns when what became of them is booked."""
        before = self.switch.counters(self.memory).rx_frames
        self.switch.send(self.memory, [bytes(frame) for frame in frames])
        wait_until(
            lambda: self.switch.counters(self.memory).rx_frames == before + len(frames), 5, "taken"
        )
        self.switch.settle()

    def heard(self, count: int, timeout_s: float = 5) -> list[Packet]:
        """What the port sent to the bridge: ``count`` frames, no more."""
        frames = self.switch.take(self.memory, count, timeout_s)
        self.switch.settle()
        frames += self.switch.take(self.memory, 0)
        assert len(frames) == count, [Ether(frame).summary() for frame in frames]
        return [Ether(frame) for frame in frames]

    def silent(self) -> bool:
        self.switch.settle()
        return self.switch.take(self.memory, 0) == []

    def drops(self) -> dict[str, int]:
        return self.switch.counters(self.tun).tx_drops


@contextlib.contextmanager
def bench_of(net: Topology, switch: Switch, **options: str) -> Iterator[Bench]:
    """Without an address of its own, the interface answers nothing; the test does."""
    tun = switch.attach(
        in_netns(net.switch, lambda: acquire("p", "tun", {"name": "bench", **options}))
    )
    outside = HostPort(net.switch, "bench")
    try:
        yield Bench(net, switch, tun, switch.add("m", "memory"), outside)
    finally:
        outside.close()


@pytest.fixture
def bench(net: Topology, switch: Switch) -> Iterator[Bench]:
    with bench_of(net, switch, address="10.7.0.1") as bench:
        yield bench


def to_outside(bench: Bench, count: int) -> list[bytes]:
    packets: list[bytes] = []

    def enough() -> bool:
        packets.extend(bench.outside.receive())
        return len(packets) >= count

    wait_until(enough, 5, f"{count} packets at the interface")
    return packets


def arp_request(target: str, sender: str = "10.7.0.9", mac: str = STATION) -> Packet:
    return Ether(dst="ff:ff:ff:ff:ff:ff", src=mac) / ARP(hwsrc=mac, psrc=sender, pdst=target)


def solicitation(target: str, sender: str = "fd07::9") -> Packet:
    group = in6_getnsma(IPv6Address(target).packed)
    return (
        Ether(dst=in6_getnsmac(group), src=STATION)
        / IPv6(src=sender, dst=str(IPv6Address(group)), hlim=255)
        / ICMPv6ND_NS(tgt=target)
        / ICMPv6NDOptSrcLLAddr(lladdr=STATION)
    )


def datagram(src: str, dst: str, ttl: int = 64) -> Packet:
    layer = IPv6(src=src, dst=dst, hlim=ttl) if ":" in dst else IP(src=src, dst=dst, ttl=ttl)
    return layer / UDP(sport=9, dport=9) / Raw(b"payload")


def test_T2_what_is_no_packet_for_the_port_is_refused(bench: Bench) -> None:
    """An Ethernet frame cannot be written to a TUN."""
    to_port = Ether(dst=bench.mac, src=STATION)
    packet = datagram("10.7.0.9", "10.7.0.1")
    bench.send(
        Ether(dst=bench.mac, src=STATION, type=0x88B5) / Raw(bytes(50)),
        Ether(dst="ff:ff:ff:ff:ff:ff", src=STATION, type=0x88B5) / Raw(bytes(50)),
        to_port / Dot1Q(vlan=5) / packet,
        Ether(dst=bench.mac, src=STATION) / LLC() / Raw(bytes(40)),
    )
    assert bench.drops() == {"l3_port": 4}
    bench.send(Ether(dst=OTHER, src=STATION) / packet)
    assert bench.drops() == {"l3_port": 4, "not_addressed": 1}
    bench.send(
        Ether(bytes(to_port / packet)[:30]),
        Ether(bytes(to_port / packet)[:-4]),
        Ether(dst=bench.mac, src=STATION, type=0x86DD) / packet,
        Ether(dst="ff:ff:ff:ff:ff:ff", src=STATION, type=0x806) / Raw(b"\0\1\x08\0"),
    )
    assert bench.drops() == {"l3_port": 4, "not_addressed": 1, "malformed": 4}
    assert bench.outside.receive() == []
    assert bench.switch.counters(bench.tun).consumed == 0


def test_T2_packets_are_not_changed(bench: Bench) -> None:
    """No router: the hop limit stays. Padding of short frames is not the packet's."""
    packets = [
        datagram("10.7.0.9", "10.7.0.1", ttl=1),
        datagram("fd07::9", "fd07::1", ttl=1),
        datagram("10.7.0.9", "255.255.255.255"),
        datagram("10.7.0.9", "224.0.0.251"),
    ]
    macs = [bench.mac, bench.mac, "ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb"]
    for packet, mac in zip(packets, macs, strict=True):
        bench.send(Ether(bytes(Ether(dst=mac, src=STATION) / packet) + bytes(20)))
    assert to_outside(bench, 4) == [bytes(packet) for packet in packets]
    for packet, dst in (
        (datagram("10.7.0.1", "255.255.255.255", ttl=1), "ff:ff:ff:ff:ff:ff"),
        (datagram("10.7.0.1", "239.129.2.3"), "01:00:5e:01:02:03"),
        (datagram("fd07::1", "ff02::1:ff00:7"), "33:33:ff:00:00:07"),
    ):
        bench.outside.send(bytes(packet))
        (frame,) = bench.heard(1)
        assert (frame.dst, frame.src) == (dst, bench.mac)
        assert bytes(frame.payload) == bytes(packet)


def test_answers_for_what_is_behind_and_nothing_else(bench: Bench) -> None:
    """By configuration, as a source of packets; an address that moved away no more."""
    bench.send(arp_request("10.7.0.1"))
    (answer,) = bench.heard(1)
    assert (answer[ARP].op, answer[ARP].hwsrc, answer[ARP].psrc) == (2, bench.mac, "10.7.0.1")
    assert (answer.dst, answer[ARP].hwdst, answer[ARP].pdst) == (STATION, STATION, "10.7.0.9")
    bench.send(arp_request("10.7.0.1", sender="0.0.0.0"))  # RFC 5227: is it free?
    assert bench.heard(1)[0][ARP].op == 2
    bench.send(arp_request("10.7.0.50"), solicitation("fd07::50"))
    assert bench.silent(), "nobody knows those"

    bench.outside.receive()
    for source, group in (("10.7.0.50", "224.0.0.1"), ("fd07::50", "ff02::2")):
        bench.outside.send(bytes(datagram(source, group)))
    bench.heard(2)
    bench.send(arp_request("10.7.0.50"), solicitation("fd07::50"))
    arp, na = bench.heard(2)
    assert (arp[ARP].psrc, arp[ARP].hwsrc) == ("10.7.0.50", bench.mac)
    assert (na[ICMPv6ND_NA].tgt, na[ICMPv6NDOptDstLLAddr].lladdr) == ("fd07::50", bench.mac)

    # Another station has it now; what is configured stays the port's.
    bench.send(arp_request("10.7.0.50", sender="10.7.0.50", mac=OTHER))
    bench.send(arp_request("10.7.0.1", sender="10.7.0.1", mac=OTHER))
    assert bench.heard(1)[0][ARP].psrc == "10.7.0.1"
    bench.send(arp_request("10.7.0.50"))
    assert bench.silent()
    counters = bench.switch.counters(bench.tun)
    assert (counters.originated, counters.consumed) == (5, 9)


def test_a_prefix_but_for_the_stations_in_it(net: Topology, switch: Switch) -> None:
    with bench_of(net, switch, address="10.7.0.0/24") as bench:
        bench.send(arp_request("10.7.0.77", sender="10.7.0.9"))
        assert bench.heard(1)[0][ARP].psrc == "10.7.0.77"
        # Who asked is known to be on the bridge.
        bench.send(arp_request("10.7.0.9", sender="10.7.0.10", mac=OTHER))
        assert bench.silent()
        bench.send(arp_request("10.8.0.1"))
        assert bench.silent()


def test_a_knock_finds_what_is_behind(net: Topology, switch: Switch) -> None:
    with bench_of(net, switch) as bench:
        for request in (arp_request("10.7.0.5"), solicitation("fd07::5")):
            bench.send(request)
            (knock,) = to_outside(bench, 1)
            v6 = knock[0] >> 4 == 6
            assert knock[7 if v6 else 8] == 1, "no router passes it on"
            packet = IPv6(knock) if v6 else IP(knock)
            assert (packet.src, packet.dst) == (
                ("fd07::9", "fd07::5") if v6 else ("10.7.0.9", "10.7.0.5")
            )
            assert bench.silent(), "nobody has answered yet"
            bench.outside.send(echo_reply(knock))
            (answer,) = bench.heard(1)
            told = answer[ICMPv6ND_NA].tgt if v6 else answer[ARP].psrc
            assert told == ("fd07::5" if v6 else "10.7.0.5")
            assert answer.dst == STATION
        # Asked once a second at most, however many ask.
        bench.send(*[arp_request("10.7.0.6")] * 20)
        assert len(to_outside(bench, 1)) <= 2
        counters = switch.counters(bench.tun)
        assert (counters.rx_frames, counters.rx_drops) == (2, {})


def echo_reply(echo: bytes) -> bytes:
    """As a stack answers: the addresses exchanged, another type. Nobody looks at checksums."""
    v6 = echo[0] >> 4 == 6
    at, size, end = (8, 16, 40) if v6 else (12, 4, 20)
    source, target = echo[at : at + size], echo[at + size : end]
    return echo[:at] + target + source + bytes([129 if v6 else 0]) + echo[end + 1 :]


def test_packets_wait_for_their_neighbour(bench: Bench) -> None:
    """In order, in front of what comes later; one question for all of them."""
    packets = [datagram("10.7.0.1", "10.7.0.9") / Raw(bytes([n])) for n in range(10)]
    for packet in packets:
        bench.outside.send(bytes(packet))
    (question,) = bench.heard(1)
    assert (question[ARP].op, question[ARP].psrc, question[ARP].pdst) == (
        1,
        "10.7.0.1",
        "10.7.0.9",
    )
    answer = ARP(op=2, hwsrc=STATION, psrc="10.7.0.9", hwdst=bench.mac, pdst="10.7.0.1")
    bench.send(Ether(dst=bench.mac, src=STATION) / answer)
    bench.outside.send(bytes(packets[0]))
    frames = bench.heard(11)
    assert {frame.dst for frame in frames} == {STATION}
    assert [bytes(frame.payload) for frame in frames] == [bytes(p) for p in (*packets, packets[0])]
    assert bench.switch.counters(bench.tun).rx_frames == 11


def test_nobody_answers(bench: Bench) -> None:
    """Three questions, a second apart, then a drop with its reason; the queue is bounded."""
    for n in range(100):
        bench.outside.send(bytes(datagram("fd07::1", "fd07::9") / Raw(bytes([n]))))
    wait_until(
        lambda: bench.switch.counters(bench.tun).rx_drops.get("no_neighbor", 0) == 36,
        2,
        "those that found no room",
    )
    wait_until(
        lambda: bench.switch.counters(bench.tun).rx_drops.get("no_neighbor", 0) == 100,
        10,
        "all are given up",
    )
    questions = bench.heard(3)
    assert {question[ICMPv6ND_NS].tgt for question in questions} == {"fd07::9"}
    counters = bench.switch.counters(bench.tun)
    assert (counters.rx_frames, counters.originated) == (100, 3)


def test_packets_that_cannot_go_anywhere(bench: Bench) -> None:
    """From nobody, to nobody, and to what is behind the port itself."""
    for src, dst in (
        ("0.0.0.0", "10.7.0.9"),
        ("::", "fd07::9"),
        ("224.0.0.1", "10.7.0.9"),
        ("10.7.0.1", "127.0.0.1"),
        ("10.7.0.2", "10.7.0.1"),
    ):
        bench.outside.send(bytes(datagram(src, dst)))
    wait_until(lambda: bench.switch.counters(bench.tun).rx_frames == 5, 5, "all are counted")
    drops = bench.switch.counters(bench.tun).rx_drops
    assert drops == {"source_invalid": 3, "no_neighbor": 1, "same_port": 1}
    assert bench.silent()


def test_a_scan_from_behind_is_bounded(bench: Bench) -> None:
    """Every address of a network at once: each packet is a drop or a frame, nothing piles up."""
    count = 3000
    for n in range(count):
        bench.outside.send(bytes(datagram("10.7.0.1", f"10.{8 + n // 250}.1.{n % 250 + 1}")))
    wait_until(
        lambda: bench.switch.counters(bench.tun).rx_drops.get("no_neighbor", 0) == count,
        10,
        "all are given up",
    )
    bench.send(arp_request("10.7.0.1"))
    assert bench.switch.counters(bench.tun).rx_frames == count


def test_random_bytes_both_ways(bench: Bench) -> None:
    """None is lost unaccounted, and nothing but packets crosses."""
    draw = random.Random(4)
    mac = bytes.fromhex(bench.mac.replace(":", ""))
    heads = [b"\x08\x00\x45", b"\x86\xdd\x60", b"\x08\x06\x00", b"\x81\x00\x00", b"\x88\xb5"]
    frames = [
        draw.choice((mac, b"\xff" * 6, b"\x33\x33\0\0\0\1", draw.randbytes(6)))
        + b"\x02"
        + draw.randbytes(5)
        + draw.choice(heads)
        + draw.randbytes(draw.choice((0, 1, 20, 39, 40, 64, 200, 1400)))
        for _ in range(2000)
    ]
    for at in range(0, len(frames), 100):
        bench.switch.send(bench.memory, frames[at : at + 100])
        bench.switch.take(bench.memory, 0)
    wait_until(
        lambda: bench.switch.counters(bench.memory).rx_frames == len(frames), 10, "all came in"
    )
    bench.switch.settle()
    counters = bench.switch.counters(bench.tun)
    assert counters.tx_frames > 0
    assert set(counters.tx_drops) <= {"l3_port", "malformed", "not_addressed", "queue_full"}
    assert all(packet[0] >> 4 in (4, 6) for packet in bench.outside.receive())

    before = counters.rx_frames
    packets = [
        draw.choice((b"\x45", b"\x60", b"\x00", b"\xff"))
        + draw.randbytes(draw.choice((0, 19, 39, 99)))
        for _ in range(500)
    ]
    for packet in packets:
        bench.outside.send(packet)
    wait_until(
        lambda: bench.switch.counters(bench.tun).rx_frames == before + len(packets),
        10,
        "every packet is a frame or a drop",
    )
