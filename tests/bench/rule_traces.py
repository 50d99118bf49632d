"""Frames that meet the rules of a set of tests/bench/rulesets.py, and the set in the words of this
switch and of its peers, so that every subject of a benchmark gets the same."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from tests.bench.rulesets import ANY_PORT, PROTOS_WITH_PORTS, FiveTuple
from tests.support import peer_rules
from tests.support.packets import ICMP, TCP, UDP, checksum
from tests.support.peer_rules import Match, Rule

STATIONS = bytes.fromhex("020000020000020000010000")  # to, from


@dataclass(frozen=True)
class Header:
    src: int
    dst: int
    sport: int
    dport: int
    proto: int

    def frame(self) -> bytes:
        """60 bytes; the same stations for all."""
        head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, self.proto, 0)
        head += struct.pack("!II", self.src, self.dst)
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        ports = struct.pack("!HH", self.sport, self.dport)
        tail = {
            TCP: ports + struct.pack("!IIBBHHH", 1, 1, 5 << 4, 16, 512, 0, 0),
            UDP: ports + struct.pack("!HH", 20, 0) + bytes(12),
            ICMP: struct.pack("!BBHHH", 8, 0, 0, 1, 1) + bytes(12),
        }.get(self.proto, bytes(20))
        return STATIONS + b"\x08\x00" + head + tail + bytes(6)


def headers(rules: Sequence[FiveTuple], flows: int, seed: int = 1) -> list[Header]:
    """`flows` different headers, each inside of a rule that was drawn at random (an earlier one may
    take it)."""
    draw = random.Random(f"headers {seed}")
    found: dict[Header, None] = {}
    while len(found) < flows:
        rule = draw.choice(rules)
        proto = rule.proto if rule.proto is not None else draw.choice(PROTOS_WITH_PORTS)
        ports = (0, 0)
        if proto in PROTOS_WITH_PORTS:
            ports = (draw.randint(*rule.sport), draw.randint(*rule.dport))
        src, dst = (
            int(network.network_address) + draw.randrange(network.num_addresses)
            for network in (rule.src, rule.dst)
        )
        found[Header(src, dst, *ports, proto)] = None
    order = list(found)
    draw.shuffle(order)
    return order


def frames(rules: Sequence[FiveTuple], flows: int, seed: int = 1) -> list[bytes]:
    """One frame of each flow; replayed over and over, every flow comes as often."""
    return [header.frame() for header in headers(rules, flows, seed)]


def write_pcap(path: Path, some: Iterable[bytes]) -> None:
    with path.open("wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in some:
            out.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)


def _rules(rules: Sequence[FiveTuple]) -> list[Rule]:
    """They allow, so that what they cost is not what a drop saves."""
    return [Rule(_match(rule), allow=True) for rule in rules]


def _match(rule: FiveTuple) -> Match:
    def masked(network: IPv4Network) -> tuple[bytes, bytes] | None:
        pair = (network.network_address.packed, network.netmask.packed)
        return pair if network.prefixlen else None

    return Match(
        version=4,
        src=masked(rule.src),
        dst=masked(rule.dst),
        proto=rule.proto,
        sport=() if rule.sport == ANY_PORT else (rule.sport,),
        dport=() if rule.dport == ANY_PORT else (rule.dport,),
    )


def for_api(rules: Sequence[FiveTuple]) -> list[dict[str, Any]]:
    return peer_rules.api(_rules(rules))


def for_nft(rules: Sequence[FiveTuple]) -> Iterator[str]:
    return peer_rules.nft(_rules(rules))


def for_ovs(rules: Sequence[FiveTuple], to: str) -> Iterator[str]:
    return peer_rules.ovs(_rules(rules), to)


def nft_set(exact: Sequence[Header]) -> tuple[list[str], str]:
    """One line that allows these headers, whose set is a hash table, and the set."""
    proto = {TCP: "tcp", UDP: "udp"}
    elements = ", ".join(
        f"{IPv4Address(h.src)} . {IPv4Address(h.dst)} . {proto[h.proto]} . {h.sport} . {h.dport}"
        for h in exact
        if h.proto in proto
    )
    fields = "ipv4_addr . ipv4_addr . inet_proto . inet_service . inet_service"
    line = "ip saddr . ip daddr . meta l4proto . th sport . th dport @exact accept"
    return [line], f"set exact {{ type {fields}; elements = {{ {elements} }}; }}"
