"""conntrack*.c against a model (tests/support/conntrack_model.py): histories of packets, most of
them let through, some dropped, with time, ageing, flushes and successors in between.

Hosts, ports and numbers are few, so that packets meet. After each step the whole table is what the
model says: ends, states, counters, when it expires. Packets are built by scapy.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from tests.support.conntrack_model import Connection, Limits, Model, Packet
from tests.support.core import core

BRIDGE, ANY, ENOSPC = 4, 0xFFFF, 28
PROTOCOLS = {"tcp": 6, "udp": 17}
TCP_STATES = {
    "": 0,
    "syn_sent": 1,
    "simultaneous": 2,
    "syn_received": 3,
    "established": 4,
    "fin_wait": 5,
    "close_wait": 6,
    "closing": 7,
    "closed": 8,
}
# More often what a connection is made of; the last ones are of no TCP.
FLAGS = ["S", "S", "SA", "SA", "A", "A", "A", "FA", "FA", "R", "RA", "F", "SF", ""]

CONVERSATIONS = [
    "S SA< A A< FA A< FA< A",
    "S SA< A FA FA A< FA< FA<",
    "S SA< A FA< FA< A FA FA",
    "S SA< A R< A< A",
    "S S< SA SA< A",
    "S S RA< S R S",
]


def address(host: int, ipv6: bool) -> str:
    return f"2001:db8::{host}" if ipv6 else f"10.0.0.{host}"


def upper(packet: Packet) -> Any:
    """Layer 4 of a packet that quotes none."""
    if packet.kind == "tcp":
        return TCP(sport=packet.sport, dport=packet.dport, flags=packet.flags)
    if packet.kind == "udp":
        return UDP(sport=packet.sport, dport=packet.dport) / Raw(b"12345678")
    if packet.ipv6:
        kind = ICMPv6EchoRequest if packet.kind == "ping" else ICMPv6EchoReply
        return kind(id=packet.sport)
    return ICMP(type=8 if packet.kind == "ping" else 0, id=packet.sport)


def network(packet: Packet) -> Any:
    src, dst = address(packet.src, packet.ipv6), address(packet.dst, packet.ipv6)
    if not packet.ipv6:
        first = bool(packet.number) and packet.kind != "later"
        offset = 4 if packet.kind == "later" else 0
        proto = {"proto": 17} if packet.kind == "later" else {}
        return IP(src=src, dst=dst, id=packet.number, flags=int(first), frag=offset, **proto)
    header = IPv6(src=src, dst=dst)
    if packet.kind == "later":
        return header / IPv6ExtHdrFragment(nh=17, id=packet.number, m=0, offset=4)
    if packet.number:
        return header / IPv6ExtHdrFragment(nh=17, id=packet.number, m=1, offset=0)
    return header


@cache
def frame_of(packet: Packet) -> bytes:
    ether = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    if packet.vlan:
        ether /= Dot1Q(vlan=packet.vlan)
    if packet.kind == "later":
        return bytes(ether / network(packet) / Raw(b"the rest"))
    if packet.kind != "error":
        return bytes(ether / network(packet) / upper(packet))
    assert packet.about is not None
    inner = packet.about._replace(ipv6=packet.ipv6)
    header_bytes = 48 if packet.ipv6 and inner.number else 40 if packet.ipv6 else 20
    quoted = bytes(network(inner) / upper(inner))[: header_bytes + 8]
    about = ICMPv6TimeExceeded() if packet.ipv6 else ICMP(type=11)
    return bytes(ether / network(packet) / about / Raw(quoted))


def reversed_ends(packet: Packet) -> Packet:
    """The other side's, of TCP or UDP; no fragment."""
    src, dst, sport, dport = packet.dst, packet.src, packet.dport, packet.sport
    return packet._replace(src=src, dst=dst, sport=sport, dport=dport, number=0)


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    src, dst = draw(st.sampled_from([(1, 2), (2, 1), (1, 2), (2, 1), (1, 3), (3, 1)]))
    sport, dport = draw(st.sampled_from([(7, 80), (80, 7), (8, 80), (80, 8)]))
    vlan, ipv6 = draw(st.sampled_from([0, 0, 0, 5])), draw(st.sampled_from([False, False, True]))
    kind = draw(st.sampled_from(["tcp", "tcp", "tcp", "udp", "ping", "pong", "error", "later"]))
    packet = Packet(kind, src, dst, sport, dport, vlan=vlan, ipv6=ipv6)
    if kind == "tcp":
        return packet._replace(flags=draw(st.sampled_from(FLAGS)))
    if kind == "udp" and draw(st.booleans()):
        # four packets at most: fragments of more may push out each other's
        return Packet("udp", 1, 2, sport, dport, ipv6=ipv6, number=draw(st.sampled_from([41, 42])))
    if kind == "later":
        return Packet("later", 1, 2, ipv6=ipv6, number=draw(st.sampled_from([41, 42])))
    if kind in ("ping", "pong"):
        return packet._replace(sport=draw(st.sampled_from([7, 8])), dport=0)
    if kind == "error":
        about = draw(packets().filter(lambda one: one.kind not in ("error", "later")))
        to = draw(st.sampled_from([about.src, about.src, about.src, 3]))
        return Packet("error", 9, to, vlan=vlan, ipv6=ipv6, about=about)
    return packet


class ConntrackMachine(RuleBasedStateMachine):
    @initialize(
        connections=st.sampled_from([1, 3, 6, 64]),
        quota=st.sampled_from([1, 2, 4, 64]),
        now=st.sampled_from([0, 1000, 0x7FFFFFF0, 0xFFFFF000]),
        loose=st.sampled_from([False, False, False, True]),
    )
    def start(self, connections: int, quota: int, now: int, loose: bool) -> None:
        ffi, lib = core()
        self.now = self.base = now
        self.model = Model(Limits(connections, quota, loose=loose))
        self.fd = os.memfd_create("conntrack")
        os.ftruncate(self.fd, lib.shim_conntrack_bytes(connections))
        self.table: Any = ffi.NULL
        self.open()

    def open(self) -> None:
        ffi, lib = core()
        limits = self.model.limits
        self.table = lib.shim_conntrack_open(self.fd, limits.connections)
        assert self.table != ffi.NULL
        wanted = ffi.new("struct conntrack_settings *")
        wanted.port_quota, wanted.tcp_loose = limits.quota, limits.loose
        for name in ("tcp_opening", "tcp_established", "tcp_closing", "icmp"):
            setattr(wanted, name, getattr(limits, name))
        wanted.udp_new, wanted.udp_established = limits.udp_new, limits.udp_established
        lib.shim_conntrack_set(self.table, wanted)

    def teardown(self) -> None:
        if hasattr(self, "fd"):
            core()[1].shim_conntrack_close(self.table)
            os.close(self.fd)

    @property
    def clock(self) -> int:
        """What C sees: 32 bits."""
        return self.now & 0xFFFFFFFF

    # --- steps

    @rule(
        packet=packets(),
        port=st.integers(1, 3),
        let=st.sampled_from([True, True, True, False]),
        ahead=st.booleans(),
    )
    def frame(self, packet: Packet, port: int, let: bool, ahead: bool) -> None:
        ffi, lib = core()
        data = frame_of(packet)
        status = ffi.new("int *")
        verdict = self.model.judge(packet, self.now)
        event(f"{packet.kind} {verdict.state}")
        state = lib.shim_conntrack_pass(
            self.table, data, len(data), port, BRIDGE, self.clock, ahead, let, status
        )
        assert state == verdict.state, packet
        if let:
            taken = self.model.commit(packet, verdict, port, len(data), self.now)
            assert status[0] == (0 if taken else -ENOSPC)
            event("taken" if taken else "no room")

    @rule(
        src=st.sampled_from([1, 2]),
        words=st.sampled_from(CONVERSATIONS),
        port=st.integers(1, 3),
    )
    def conversation(self, src: int, words: str, port: int) -> None:
        """Segments in their order; < is from the other side."""
        there = Packet("tcp", src, 3 - src, 7, 80)
        back = Packet("tcp", 3 - src, src, 80, 7)
        for word in words.split():
            packet = (back if word.endswith("<") else there)._replace(flags=word.rstrip("<"))
            self.frame(packet, port, True, False)

    @rule(
        which=st.integers(0, 63),
        flags=st.lists(st.sampled_from(FLAGS), min_size=1, max_size=4),
        back=st.lists(st.booleans(), min_size=4, max_size=4),
        port=st.integers(1, 3),
    )
    def go_on(self, which: int, flags: list[str], back: list[bool], port: int) -> None:
        """More of a connection that is there."""
        known = list(self.model.table.values())
        if not known:
            return
        first = known[which % len(known)].first
        for word, reverse in zip(flags, back, strict=False):
            if first.kind == "tcp":
                packet = reversed_ends(first) if reverse else first
                self.frame(packet._replace(flags=word), port, True, False)
            elif first.kind == "ping":
                packet = first._replace(kind="pong", src=first.dst, dst=first.src)
                self.frame(packet if reverse else first, port, True, False)
            else:
                self.frame(reversed_ends(first) if reverse else first, port, True, False)

    @rule(which=st.integers(0, 63), reverse=st.booleans(), to=st.integers(0, 3))
    def complain(self, which: int, reverse: bool, to: int) -> None:
        """An error about a connection that is there, perhaps to somebody else."""
        known = list(self.model.table.values())
        if known:
            first = known[which % len(known)].first
            about = reversed_ends(first) if reverse and first.kind != "ping" else first
            error = Packet("error", 9, to or about.src, vlan=first.vlan, ipv6=first.ipv6)
            self.frame(error._replace(about=about), 3, True, False)

    @rule(seconds=st.sampled_from([1, 1, 2, 29, 30, 60, 120, 180, 7440]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule()
    def tick(self) -> None:
        core()[1].shim_conntrack_tick(self.table, self.clock)
        self.model.tick(self.now)
        assert core()[1].shim_conntrack_count(self.table) == len(self.model.table)

    @rule(port=st.sampled_from([ANY, 1, 2]), host=st.sampled_from([0, 0, 1, 3]))
    def flush(self, port: int, host: int) -> None:
        ffi, lib = core()
        which = ffi.new("struct conntrack_filter *")
        which.bridge, which.port = BRIDGE, port
        if host:
            which.ip_version = 4
            ffi.memmove(which.address, bytes([0] * 12 + [10, 0, 0, host]), 16)
        gone = [
            key
            for key, one in self.model.table.items()
            if port in (ANY, one.port)
            and (not host or (not one.first.ipv6 and host in (one.first.src, one.first.dst)))
        ]
        assert lib.shim_conntrack_flush(self.table, which) == len(gone)
        for key in gone:
            self.model.remove(key)

    @rule()
    def successor(self) -> None:
        """Another process goes on with the memory. It knows no fragments, and not the order in
        which the connections were seen: it meets them from the last slot to the first."""
        self.tick()
        met = [self.ends(row) for row in reversed(self.dump())]
        core()[1].shim_conntrack_close(self.table)
        self.open()
        self.model.fragments.clear()
        self.model.unanswered.sort(key=lambda key: met.index(self.expected(self.model.table[key])))

    # --- the table

    def dump(self) -> list[Any]:
        ffi, lib = core()
        cursor, rows, found = ffi.new("uint32_t *", 0), ffi.new("struct conntrack_row[]", 3), []
        while True:
            count = lib.shim_conntrack_dump(self.table, self.clock, cursor, rows, 3)
            for row in rows[0:count]:
                copy = ffi.new("struct conntrack_row *")
                copy[0] = row
                found.append(copy)
            if cursor[0] == 0:
                return found

    @staticmethod
    def ends(row: Any) -> tuple[object, ...]:
        return (
            (row.ip_version, row.proto, row.vid),
            (row.src[15], row.src_port),
            (row.dst[15], row.dst_port),
            (row.port, row.bridge),
        )

    @staticmethod
    def expected(one: Connection) -> tuple[object, ...]:
        first = one.first
        proto = PROTOCOLS.get(first.kind, 58 if first.ipv6 else 1)
        dport = first.sport if first.kind == "ping" else first.dport
        return (
            (6 if first.ipv6 else 4, proto, first.vlan),
            (first.src, first.sport),
            (first.dst, dport),
            (one.port, BRIDGE),
        )

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "fd"):
            return
        shown = {
            self.ends(row): (
                row.state,
                row.tcp_state,
                row.expires_s,
                *row.frames,
                *row.bytes,
            )
            for row in self.dump()
        }
        model = self.model
        assert shown == {
            self.expected(one): (
                2 if one.answered else 1,
                TCP_STATES[one.tcp],
                model.timeout(one) - (self.now - one.seen),
                *one.frames,
                *one.bytes,
            )
            for one in model.table.values()
            if model.lives(one, self.now)
        }
        assert core()[1].shim_conntrack_count(self.table) == len(model.table)


TestConntrack = ConntrackMachine.TestCase
TestConntrack.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
