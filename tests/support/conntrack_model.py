"""Connection tracking in Python, slow and plain: what conntrack.h promises, of packets by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

NEW, ESTABLISHED, RELATED, INVALID = 1, 2, 4, 8
TRIES = 4  # to make room, before a connection is refused


class Packet(NamedTuple):
    """``kind``: tcp, udp, ping, pong, error, later (fragment). ``flags``: "S", "SA", "A", "FA",
    "R", "RA", or one of no TCP. ``about``: what an error quotes. A later fragment has the ends
    and the ``number`` of its packet; ``number`` of a udp packet: it is a first fragment."""

    kind: str
    src: int
    dst: int
    sport: int = 0
    dport: int = 0
    flags: str = ""
    vlan: int = 0
    ipv6: bool = False
    number: int = 0
    about: Packet | None = None


@dataclass
class Connection:
    first: Packet
    port: int
    seen: int
    tcp: str
    answered: bool = False
    frames: list[int] = field(default_factory=lambda: [0, 0])
    bytes: list[int] = field(default_factory=lambda: [0, 0])


@dataclass
class Limits:
    connections: int
    quota: int
    tcp_opening: int = 60
    tcp_established: int = 7440
    tcp_closing: int = 120
    udp_new: int = 30
    udp_established: int = 180
    icmp: int = 30
    loose: bool = False


@dataclass
class Verdict:
    state: int
    connection: Connection | None = None
    reply: bool = False
    tcp: str = ""


Key = tuple[object, ...]


def key_of(packet: Packet) -> Key | None:
    """The same for both directions; of a ping for it and its answers only."""
    zone = (packet.vlan, packet.ipv6)
    if packet.kind in ("tcp", "udp"):
        ends = frozenset({(packet.src, packet.sport), (packet.dst, packet.dport)})
        return (*zone, packet.kind, ends)
    if packet.kind == "ping":
        return (*zone, "icmp", packet.src, packet.dst, packet.sport)
    if packet.kind == "pong":
        return (*zone, "icmp", packet.dst, packet.src, packet.sport)
    return None


def tcp_step(state: str, reply: bool, flags: str) -> str:
    """The state behind a segment; "new" begins a connection, "" is invalid."""
    if flags == "S":
        if state in ("closing", "closed"):
            return "new"
        if not reply:
            return state
        return "simultaneous" if state in ("syn_sent", "simultaneous") else ""
    if flags in ("R", "RA"):
        return "closed"
    opening = state in ("syn_sent", "simultaneous")
    if flags == "SA":
        if not reply:
            return "syn_received" if state in ("simultaneous", "syn_received") else ""
        if opening:
            return "syn_received"
        same = state in ("syn_received", "established", "fin_wait", "closed")
        return state if same else ""
    if flags == "A":
        if not reply:
            return "" if opening else "established" if state == "syn_received" else state
        return state
    if flags == "FA":
        if opening:
            return ""
        if state in ("syn_received", "established"):
            return "close_wait" if reply else "fin_wait"
        if state == ("fin_wait" if reply else "close_wait"):
            return "closing"
        return state
    return ""


class Model:
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.table: dict[Key, Connection] = {}
        self.unanswered: list[Key] = []  # the one not seen for longest first
        self.fragments: dict[Key, tuple[int, Verdict]] = {}

    # --- time

    def timeout(self, connection: Connection) -> int:
        limits, kind = self.limits, connection.first.kind
        if kind == "ping":
            return limits.icmp
        if kind == "udp":
            return limits.udp_established if connection.answered else limits.udp_new
        if connection.tcp in ("fin_wait", "close_wait", "closing", "closed"):
            return limits.tcp_closing
        if connection.tcp == "established" and connection.answered:
            return limits.tcp_established
        return limits.tcp_opening

    def lives(self, connection: Connection, now: int) -> bool:
        return now - connection.seen < self.timeout(connection)

    def tick(self, now: int) -> None:
        for key in [key for key, one in self.table.items() if not self.lives(one, now)]:
            self.remove(key)

    # --- what a packet is

    def judge(self, packet: Packet, now: int) -> Verdict:
        if packet.kind == "later":
            found = self.fragments.get(self.fragment_key(packet))
            return found[1] if found and now - found[0] < 30 else Verdict(INVALID)
        if packet.kind == "error":
            return Verdict(RELATED if self.known(packet, now) else INVALID)
        key = key_of(packet)
        assert key is not None
        connection = self.table.get(key)
        if connection is not None and not self.lives(connection, now):
            connection = None
        if connection is None:
            return self.begins(packet)
        reply = packet.kind == "pong"
        if packet.kind in ("tcp", "udp"):
            reply = (packet.src, packet.sport) != (connection.first.src, connection.first.sport)
        state = ESTABLISHED if reply or connection.answered else NEW
        if packet.kind != "tcp":
            return Verdict(state, connection, reply)
        given_up = connection.tcp == "closed" and not connection.answered and not reply
        after = tcp_step(connection.tcp, reply, packet.flags)
        if not after or (given_up and packet.flags not in ("S", "R", "RA")):
            return Verdict(INVALID)
        if after == "new":
            return Verdict(NEW, tcp="syn_sent")
        return Verdict(state, connection, reply, after)

    def begins(self, packet: Packet) -> Verdict:
        if packet.kind in ("udp", "ping"):
            return Verdict(NEW)
        if packet.kind == "tcp" and packet.flags == "S":
            return Verdict(NEW, tcp="syn_sent")
        if packet.kind == "tcp" and packet.flags == "A" and self.limits.loose:
            return Verdict(NEW, tcp="established")
        return Verdict(INVALID)

    def known(self, error: Packet, now: int) -> bool:
        """Is it about a packet of a connection, and goes to who sent that?"""
        assert error.about is not None
        inner = error.about
        if inner.src != error.dst or inner.kind not in ("tcp", "udp", "ping", "pong"):
            return False
        key = key_of(inner._replace(vlan=error.vlan, ipv6=error.ipv6))
        assert key is not None
        connection = self.table.get(key)
        return connection is not None and self.lives(connection, now)

    @staticmethod
    def fragment_key(packet: Packet) -> Key:
        return (packet.vlan, packet.ipv6, packet.src, packet.dst, packet.number)

    # --- what is let through

    def commit(self, packet: Packet, verdict: Verdict, port: int, size: int, now: int) -> bool:
        """False: there is no room for the connection it begins."""
        if verdict.state in (RELATED, INVALID):
            return True
        if packet.kind == "later":
            if verdict.connection in self.table.values():
                self.count(verdict, size, now)
            return True
        if verdict.connection is None:
            key = key_of(packet)
            assert key is not None
            self.remove(key)
            if not self.room(port):
                return False
            made = Connection(packet, port, now, verdict.tcp)
            self.table[key] = made
            self.unanswered.append(key)
            verdict = replace(verdict, connection=made)
        connection = verdict.connection
        assert connection is not None
        self.count(verdict, size, now)
        connection.tcp = verdict.tcp
        if packet.kind == "udp" and packet.number:
            self.fragments[self.fragment_key(packet)] = (now, verdict)
        return True

    def count(self, verdict: Verdict, size: int, now: int) -> None:
        connection, side = verdict.connection, int(verdict.reply)
        assert connection is not None
        key = next(key for key, one in self.table.items() if one is connection)
        if not connection.answered and (verdict.reply or now > connection.seen):
            self.unanswered.remove(key)
            if not verdict.reply:
                self.unanswered.append(key)
        connection.answered |= verdict.reply
        connection.seen = max(connection.seen, now)
        connection.frames[side] += 1
        connection.bytes[side] += size

    # --- limits

    def held(self, port: int) -> int:
        return sum(one.port == port for one in self.table.values())

    def room(self, port: int) -> bool:
        for _ in range(TRIES):
            if self.held(port) < self.limits.quota and len(self.table) < self.limits.connections:
                return True
            oldest = [key for key in self.unanswered if self.table[key].port == port]
            if not oldest:
                return False
            self.remove(oldest[0])
        return False

    def remove(self, key: Key) -> None:
        if self.table.pop(key, None) is not None and key in self.unanswered:
            self.unanswered.remove(key)
