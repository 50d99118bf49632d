"""Rules that this switch, nftables (bridge family) and Open vSwitch can all express: drawn at
random, and written in the words of each.

Only what all three mean alike is drawn; where a frame that contradicts itself is judged
differently is said by the test that compares them.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from tests.support.packets import (
    ARP,
    DSCPS,
    ICMP,
    ICMP_TYPES,
    ICMPV6,
    ICMPV6_TYPES,
    IPV4,
    IPV6,
    PORTS,
    SOURCES,
    TCP,
    TCP_FLAGS,
    TTLS,
    UDP,
    V4,
    V6,
    VIDS,
)

PROTOCOLS = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmpv6"}

Masked = tuple[bytes, bytes]  # value, mask
Ranges = tuple[tuple[int, int], ...]  # first and last, ascending and apart


@dataclass(frozen=True)
class Match:
    """None: any. ``version`` goes with everything that only one version of IP has."""

    eth_src: Masked | None = None
    eth_dst: Masked | None = None
    eth_type: int | None = None
    tagged: bool | None = None
    vid: int | None = None
    pcp: int | None = None
    version: int | None = None
    src: Masked | None = None
    dst: Masked | None = None
    proto: int | None = None
    dscp: int | None = None
    ttl: int | None = None
    frag: str | None = None  # first, later
    sport: Ranges = ()
    dport: Ranges = ()
    tcp_flags: tuple[int, int] | None = None
    icmp: tuple[int, int] | None = None
    arp_op: int | None = None
    arp_spa: Masked | None = None
    arp_tpa: Masked | None = None
    arp_sha: bytes | None = None

    @property
    def layer4(self) -> bool:
        """About something that later fragments do not have."""
        return bool(self.sport or self.dport or self.tcp_flags or self.icmp)


@dataclass(frozen=True)
class Rule:
    match: Match
    allow: bool


# Comes first in every set: frames that say "everything before me has been decided" pass.
MARK_SOURCE = bytes.fromhex("0200ff000000")
MARKS = Rule(Match(eth_src=(MARK_SOURCE, b"\xff" * 6)), allow=True)


class Rules:
    """Draws rules from the pools of tests.support.packets."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def take(self, count: int) -> list[Rule]:
        """That many, and one for the marks in front of them."""
        draw = self._random
        return [MARKS] + [Rule(self._match(), draw.random() < 0.4) for _ in range(count)]

    def _match(self) -> Match:
        draw = self._random
        fields: dict[str, Any] = {}
        make = draw.choices((self._ip, self._arp, self._ether), (12, 2, 1))[0]
        make(fields)
        if draw.random() < 0.15:
            fields["eth_src"] = (SOURCES[draw.randrange(16)], b"\xff" * 6)
        if draw.random() < 0.1:
            fields["eth_dst"] = (bytes([2, 0, 0, 0, 0, draw.randrange(4)]), b"\xff\0\0\0\0\xff")
        if draw.random() < 0.15:
            self._vlan(fields)
        return Match(**fields)

    def _some(self, chance: float) -> bool:
        return self._random.random() < chance

    def _vlan(self, fields: dict[str, Any]) -> None:
        how = self._random.randrange(4)
        if how < 2:
            fields["tagged"] = bool(how)
        elif how == 2:
            fields["vid"] = self._random.choice([0, *VIDS])
            if not fields["vid"]:  # of a frame without a tag it is 0 here, too
                fields["tagged"] = True
        else:
            fields["pcp"] = self._random.randrange(8)

    def _ether(self, fields: dict[str, Any]) -> None:
        draw = self._random
        if self._some(0.5):
            fields["eth_type"] = draw.choice((0x88B5, 0x1234, ARP))
        else:
            low = draw.randrange(16)
            mask = bytes([255] * 5 + [draw.choice((0xFF, 0xF0, 0x03, 0x0C))])
            source = bytes([*SOURCES[low][:5], SOURCES[low][5] & mask[5]])
            fields["eth_src"] = (source, mask)

    def _arp(self, fields: dict[str, Any]) -> None:
        draw = self._random
        fields["eth_type"] = ARP
        if self._some(0.5):
            fields["arp_op"] = draw.choice((1, 2))
        if self._some(0.5):
            fields["arp_spa"] = self._network(V4)
        if self._some(0.5):
            fields["arp_tpa"] = self._network(V4)
        if self._some(0.3):
            fields["arp_sha"] = draw.choice(SOURCES)

    def _network(self, pool: Sequence[bytes]) -> Masked:
        """The network of an address in the pool, mostly a prefix, sometimes with a hole."""
        address = self._random.choice(pool)
        bits = 8 * len(address)
        length = self._random.choice((bits, bits, bits - 1, bits // 2, bits // 4, 8, 5))
        mask = ((1 << length) - 1) << (bits - length)
        if len(address) == 4 and self._some(0.1):
            mask = 0xFF0000FF
        value = int.from_bytes(address, "big") & mask
        return value.to_bytes(bits // 8, "big"), mask.to_bytes(bits // 8, "big")

    def _ip(self, fields: dict[str, Any]) -> None:
        draw = self._random
        version = draw.choice((4, 4, 6))
        fields["version"] = version
        pool = V4 if version == 4 else V6
        if self._some(0.6):
            fields["src"] = self._network(pool)
        if self._some(0.4):
            fields["dst"] = self._network(pool)
        if self._some(0.1):
            fields["dscp"] = draw.choice(DSCPS)
        if self._some(0.1):
            fields["ttl"] = draw.choice(TTLS)
        if self._some(0.1):
            fields["frag"] = draw.choice(("first", "later"))
        if self._some(0.7):
            self._layer4(fields, version)

    def _layer4(self, fields: dict[str, Any], version: int) -> None:
        draw = self._random
        proto = draw.choice((TCP, TCP, UDP, ICMP if version == 4 else ICMPV6, 47))
        fields["proto"] = proto
        if fields.get("frag") == "later":
            return  # has no layer 4 header, and OVS does not take such a flow
        if proto in (TCP, UDP):
            if self._some(0.7):
                fields[draw.choice(("sport", "dport"))] = self._ports()
            if proto == TCP and self._some(0.25):
                mask = draw.choice((0x12, 0x3F, 0x02, 0x04, 0xFF))
                fields["tcp_flags"] = (draw.choice(TCP_FLAGS) & mask, mask)
        elif proto in (ICMP, ICMPV6) and self._some(0.7):
            fields["icmp"] = draw.choice(ICMP_TYPES if proto == ICMP else ICMPV6_TYPES)

    def _ports(self) -> Ranges:
        """Ports and ranges that neither overlap nor touch."""
        draw = self._random
        if self._some(0.3):
            return ((draw.choice(PORTS),) * 2,)
        ends = sorted(draw.sample(range(len(PORTS)), draw.choice((2, 2, 4))))
        pairs = zip(ends[::2], ends[1::2], strict=True)
        return tuple((PORTS[first], PORTS[last]) for first, last in pairs)


def mac(value: bytes) -> str:
    return value.hex(":")


def _address(value: bytes) -> str:
    return str(IPv4Address(value) if len(value) == 4 else IPv6Address(value))


def _masked(pair: Masked) -> str:
    return f"{_address(pair[0])}/{_address(pair[1])}"


def _ports_text(ranges: Ranges) -> list[str]:
    return [str(a) if a == b else f"{a}-{b}" for a, b in ranges]


# --- this switch ----------------------------------------------------------------------------------


def api(rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """Rules of a set, first one first."""
    return [
        {
            "id": f"r{number}",
            "priority": 10 * (number + 1),
            "match": api_match(rule.match),
            "action": {"type": "allow" if rule.allow else "drop"},
        }
        for number, rule in enumerate(rules)
    ]


def api_match(match: Match) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {
        "eth": {
            "src": match.eth_src and "/".join(map(mac, match.eth_src)),
            "dst": match.eth_dst and "/".join(map(mac, match.eth_dst)),
            "type": None if match.eth_type is None else f"{match.eth_type:#06x}",
        },
        "vlan": {"tagged": match.tagged, "vid": match.vid, "pcp": match.pcp},
        "ip": {
            "version": match.version,
            "src": match.src and _masked(match.src),
            "dst": match.dst and _masked(match.dst),
            "proto": None if match.proto is None else PROTOCOLS.get(match.proto, match.proto),
            "dscp": match.dscp,
            "ttl": match.ttl,
            "frag": match.frag,
        },
        "l4": {
            "sport": _ports_text(match.sport) or None,
            "dport": _ports_text(match.dport) or None,
            "tcp_flags": match.tcp_flags and "{:#x}/{:#x}".format(*match.tcp_flags),
        },
        "icmp": dict(zip(("type", "code"), match.icmp, strict=True)) if match.icmp else {},
        "arp": {
            "op": match.arp_op and str(match.arp_op),
            "spa": match.arp_spa and _masked(match.arp_spa),
            "tpa": match.arp_tpa and _masked(match.arp_tpa),
            "sha": match.arp_sha and mac(match.arp_sha),
        },
    }
    kept = {
        layer: {name: value for name, value in fields.items() if value is not None}
        for layer, fields in found.items()
    }
    return {layer: fields for layer, fields in kept.items() if fields}


# --- nftables -------------------------------------------------------------------------------------


def nft(rules: Sequence[Rule]) -> Iterator[str]:
    """Lines of a chain of the bridge family."""
    for rule in rules:
        verdict = "accept" if rule.allow else "drop"
        yield " ".join([*_nft_match(rule.match), verdict])


def _nft_masked(what: str, value: str, mask: str) -> str:
    return f"{what} & {mask} == {value}"


def _nft_match(match: Match) -> Iterator[str]:
    for name, pair in (("saddr", match.eth_src), ("daddr", match.eth_dst)):
        if pair:
            yield _nft_masked(f"ether {name}", mac(pair[0]), mac(pair[1]))
    if match.tagged is not None:
        yield f"ether type {'==' if match.tagged else '!='} 8021q"
    if match.vid is not None:
        yield f"vlan id {match.vid}"
    if match.pcp is not None:
        yield f"vlan pcp {match.pcp}"
    if match.eth_type is not None:
        yield f"meta protocol {match.eth_type:#06x}"
    if match.eth_type == ARP:
        yield from _nft_arp(match)
    if match.version is not None:
        yield from _nft_ip(match)
    if match.proto is not None:
        yield f"meta l4proto {match.proto}"
    for name, ranges in (("sport", match.sport), ("dport", match.dport)):
        if ranges:
            texts = ", ".join(_ports_text(ranges))
            yield f"th {name} {{ {texts} }}" if len(ranges) > 1 else f"th {name} {texts}"
    if match.tcp_flags:
        yield "tcp flags & {1:#x} == {0:#x}".format(*match.tcp_flags)
    if match.icmp:
        word = "icmp" if match.version == 4 else "icmpv6"
        yield f"{word} type {match.icmp[0]} {word} code {match.icmp[1]}"


def _nft_arp(match: Match) -> Iterator[str]:
    if match.arp_op is not None:
        yield f"arp operation {match.arp_op}"
    for name, pair in (("saddr", match.arp_spa), ("daddr", match.arp_tpa)):
        if pair:
            yield _nft_masked(f"arp {name} ip", *map(_address, pair))
    if match.arp_sha:
        yield f"arp saddr ether {mac(match.arp_sha)}"


def _nft_ip(match: Match) -> Iterator[str]:
    word, limit = ("ip", "ttl") if match.version == 4 else ("ip6", "hoplimit")
    yield f"meta protocol {word}"
    for name, pair in (("saddr", match.src), ("daddr", match.dst)):
        if pair:
            yield _nft_masked(f"{word} {name}", *map(_address, pair))
    if match.dscp is not None:
        yield f"{word} dscp {match.dscp}"
    if match.ttl is not None:
        yield f"{word} {limit} {match.ttl}"
    if match.layer4 and match.version == 4:  # else payload of later fragments is taken for ports
        yield "ip frag-off & 0x1fff == 0"
    if match.frag and match.version == 4:
        yield {
            "first": "ip frag-off & 0x3fff == 0x2000",
            "later": "ip frag-off & 0x1fff != 0",
        }[match.frag]
    elif match.frag:
        yield {
            "first": "frag frag-off 0 frag more-fragments 1",
            "later": "frag frag-off != 0",
        }[match.frag]


# --- Open vSwitch ---------------------------------------------------------------------------------


def prefixes(first: int, last: int, bits: int = 16) -> Iterator[tuple[int, int]]:
    """The fewest (value, mask) that together are first to last."""
    top = (1 << bits) - 1
    while first <= last:
        size = first & -first or top + 1
        while size > last - first + 1:
            size >>= 1
        yield first, top & ~(size - 1)
        first += size


def ovs(rules: Sequence[Rule], to: str) -> Iterator[str]:
    """Flows; where a rule has lists or ranges, several of one priority. What is allowed goes to
    port `to`."""
    for number, rule in enumerate(rules):
        actions = f"output:{to}" if rule.allow else "drop"
        for match in _ovs_matches(rule.match):
            yield f"priority={60000 - number}{match},actions={actions}"


def _ovs_matches(match: Match) -> Iterator[str]:
    base = "".join(f",{text}" for text in _ovs_base(match))
    sides = [
        [f",{name}={value:#x}/{mask:#x}" for a, b in ranges for value, mask in prefixes(a, b)]
        or [""]
        for name, ranges in (("tp_src", match.sport), ("tp_dst", match.dport))
    ]
    for source, destination in itertools.product(*sides):
        yield base + source + destination


def _ovs_base(match: Match) -> Iterator[str]:
    for name, pair in (("dl_src", match.eth_src), ("dl_dst", match.eth_dst)):
        if pair:
            yield f"{name}={mac(pair[0])}/{mac(pair[1])}"
    if match.tagged is not None:
        yield "vlan_tci=0x1000/0x1000" if match.tagged else "vlan_tci=0x0000"
    if match.vid is not None:
        yield f"dl_vlan={match.vid}"
    if match.pcp is not None:
        yield f"dl_vlan_pcp={match.pcp}"
    if match.eth_type is not None:
        yield f"dl_type={match.eth_type:#06x}"
    if match.version is not None:
        yield f"dl_type={IPV4 if match.version == 4 else IPV6:#06x}"
    source, destination = ("nw_src", "nw_dst") if match.version == 4 else ("ipv6_src", "ipv6_dst")
    for name, pair in (
        (source, match.src),
        (destination, match.dst),
        ("arp_spa", match.arp_spa),
        ("arp_tpa", match.arp_tpa),
    ):
        if pair:
            yield f"{name}={_masked(pair)}"
    if match.arp_op is not None:
        yield f"arp_op={match.arp_op}"
    if match.arp_sha:
        yield f"arp_sha={mac(match.arp_sha)}"
    if match.dscp is not None:
        yield f"ip_dscp={match.dscp}"
    if match.ttl is not None:
        yield f"nw_ttl={match.ttl}"
    if match.frag or match.layer4:  # OVS takes flags and types of later fragments for 0
        yield f"ip_frag={match.frag or 'not_later'}"
    if match.proto is not None:
        yield f"nw_proto={match.proto}"
    if match.tcp_flags:
        yield "tcp_flags={:#x}/{:#x}".format(*match.tcp_flags)
    if match.icmp:
        word = "icmp" if match.version == 4 else "icmpv6"
        yield f"{word}_type={match.icmp[0]},{word}_code={match.icmp[1]}"
