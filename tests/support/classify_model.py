"""Which rule of a set a frame meets: the definition, from bytes, as naive as it can be.

Knows rules as the wire has them (fastpath/protocol.py) and nothing of what they are compiled to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from fastpath.protocol import WireGroup, WireRule, WireTerm
from tests.support.parse_model import (
    FRAGMENT,
    IP,
    L3,
    L4,
    LATER,
    PORTS,
    TAGGED,
    Key,
    model,
    model_tags,
)

TCP, ICMP, ICMPV6, ETH_ARP = 6, 1, 58, 0x0806


@dataclass
class Frame:
    """A frame at a stage. ``assigned``: the VLAN that the switch says; 0: none, then the tag's
    counts. ``state``: a word, or "" when connections are not tracked."""

    data: bytes
    in_port: str
    assigned: int
    state: str

    def __post_init__(self) -> None:
        self.key: Key = model(self.data)
        self.vid = self.assigned
        read = model_tags(self.data)
        if read is not None and read[0] and not self.vid:
            self.vid = read[0][0] & 0xFFF


def _any(masks: Iterable[tuple[bytes, bytes]], field: bytes) -> bool:
    return any(
        len(value) == len(field)
        and all(f & m == v & m for f, v, m in zip(field, value, mask, strict=True))
        for value, mask in masks
    )


def _inside(ranges: Iterable[tuple[int, int]], number: int) -> bool:
    return any(first <= number <= last for first, last in ranges)


def _has(key: Key, on: int, off: int = 0) -> bool:
    return key.layers & on == on and not key.layers & off


def _fragment(key: Key, words: Iterable[str]) -> bool:
    said = {
        "any": _has(key, IP | FRAGMENT),
        "first": _has(key, IP | FRAGMENT, LATER),
        "later": _has(key, IP | FRAGMENT | LATER),
        "none": _has(key, IP, FRAGMENT),
    }
    return any(said[word] for word in words)


def _address(key: Key, masks: Iterable[tuple[bytes, bytes]], address: bytes) -> bool:
    return _has(key, IP) and _any(masks, address[12:] if key.ip_version == 4 else address)


def _type(key: Key, term: WireTerm, proto: int, version: int, number: int) -> bool:
    icmp = _has(key, IP | L4, LATER | PORTS) and (key.ip_proto, key.ip_version) == (proto, version)
    return icmp and _any(term.masks, bytes([number]))


def _arp(key: Key, masks: Iterable[tuple[bytes, bytes]], field: bytes) -> bool:
    return _has(key, L3, IP) and key.eth_type == ETH_ARP and _any(masks, field)


def fits(frame: Frame, term: WireTerm, groups: Mapping[str, WireGroup]) -> bool:
    """Does the frame fit one field of a match?"""
    key, masks, ranges = frame.key, term.masks, term.ranges
    if term.group:
        masks, ranges = groups[term.group].masks, groups[term.group].ranges
    match term.field:
        case "in_port":
            return frame.in_port in term.words
        case "eth_dst":
            return _any(masks, key.eth_dst)
        case "eth_src":
            return _any(masks, key.eth_src)
        case "eth_type":
            return _any(masks, key.eth_type.to_bytes(2, "big"))
        case "vlan_tagged":
            return any((value != b"\0") == _has(key, TAGGED) for value, _ in masks)
        case "vlan_vid":
            return _any(masks, frame.vid.to_bytes(2, "big"))
        case "vlan_pcp":
            return _has(key, TAGGED) and _any(masks, bytes([key.vlan_pcp]))
        case "ip_version":
            return _has(key, IP) and _any(masks, bytes([key.ip_version]))
        case "ip_src":
            return _address(key, masks, key.ip_src)
        case "ip_dst":
            return _address(key, masks, key.ip_dst)
        case "ip_proto":
            return _has(key, IP) and _any(masks, bytes([key.ip_proto]))
        case "ip_dscp":
            return _has(key, IP) and _any(masks, bytes([key.ip_tos >> 2]))
        case "ip_ttl":
            return _has(key, IP) and _any(masks, bytes([key.ip_ttl]))
        case "fragment":
            return _fragment(key, term.words)
        case "l4_src":
            return _has(key, IP | L4 | PORTS, LATER) and _inside(ranges, key.l4_src)
        case "l4_dst":
            return _has(key, IP | L4 | PORTS, LATER) and _inside(ranges, key.l4_dst)
        case "tcp_flags":
            tcp = _has(key, IP | L4, LATER) and key.ip_proto == TCP
            return tcp and _any(masks, bytes([key.tcp_flags]))
        case "icmp_type":
            return _type(key, term, ICMP, 4, key.l4_src)
        case "icmp_code":
            return _type(key, term, ICMP, 4, key.l4_dst)
        case "icmpv6_type":
            return _type(key, term, ICMPV6, 6, key.l4_src)
        case "icmpv6_code":
            return _type(key, term, ICMPV6, 6, key.l4_dst)
        case "arp_op":
            return _arp(key, masks, bytes([0, key.ip_proto]))
        case "arp_spa":
            return _arp(key, masks, key.ip_src[12:])
        case "arp_tpa":
            return _arp(key, masks, key.ip_dst[12:])
        case "arp_sha":
            return _arp(key, masks, key.ip_src[:6])
        case "arp_tha":
            return _arp(key, masks, key.ip_dst[:6])
        case "state":
            return frame.state in term.words
    raise AssertionError(term.field)


def in_order(rules: Iterable[WireRule]) -> list[WireRule]:
    return sorted(rules, key=lambda rule: (rule.priority, rule.id.encode()))


def met(
    frame: Frame, ordered: Iterable[WireRule], groups: Mapping[str, WireGroup]
) -> Iterator[WireRule]:
    """The rules that the frame meets, the first one first."""
    for rule in ordered:
        if all(fits(frame, term, groups) for term in rule.match):
            yield rule
