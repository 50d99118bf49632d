"""Rules as they are written, made into what the engine compares: pure, no engine, no I/O.

A term of a match is a list of alternatives; a rule's alternatives are the cross product of its
terms', without those that contradict themselves (a source of IPv4 and a destination of IPv6).

An alternative is five numbers while it is put together: a mask and a value of all 64 bytes of
``struct flow_key`` at once, byte n as bits 8n and up, and ranges for the two ports. So two of them
contradict each other when their values differ in a bit that both look at.

What a field implies (an address its IP version, a port that the frame has ports) is part of its
alternatives: ``FIELDS`` is the whole table.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial

from fastpath import native_rules as native
from fastpath.native_rules import KEY_BYTES, KEY_FIELDS, PlacedAction
from fastpath.protocol import WireGroup, WireRule, WireTerm

MATCHES_MAX = 65536  # of one rule
TRIES = 16  # pairs looked at for each that may be kept, before a rule is too costly
PORT_MAX = 0xFFFF
PRIORITY_MIN, PRIORITY_MAX = -(1 << 31), (1 << 31) - 1
ETH_ARP = b"\x08\x06"
TCP, ICMP, ICMPV6 = 6, 1, 58
TERMS_CACHED = 1 << 15


class RuleError(Exception):
    """Why a rule cannot be compiled: a stable code, the field of the rule, one sentence."""

    def __init__(self, code: str, field: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.field = field


# (key & mask) == value, and each port within its range: value, mask, first and last source port,
# first and last destination port. A plain tuple: there are many, and most live for a moment.
Alternative = tuple[int, int, int, int, int, int]

ANY: Alternative = (0, 0, 0, PORT_MAX, 0, PORT_MAX)
_ALL = (ANY,)
_ANY_PORTS = ANY[2:]
Masks = Iterable[tuple[bytes, bytes]]


def join(a: Alternative, b: Alternative) -> Alternative | None:
    """Both at once; None when no key can be both."""
    if (a[0] ^ b[0]) & a[1] & b[1]:
        return None
    if a[2:] == _ANY_PORTS:
        return (a[0] | b[0], a[1] | b[1], *b[2:])
    src_lo, src_hi = max(a[2], b[2]), min(a[3], b[3])
    dst_lo, dst_hi = max(a[4], b[4]), min(a[5], b[5])
    if src_lo > src_hi or dst_lo > dst_hi:
        return None
    return (a[0] | b[0], a[1] | b[1], src_lo, src_hi, dst_lo, dst_hi)


def _bits(value: int, mask: int) -> Alternative:
    return (value, mask, 0, PORT_MAX, 0, PORT_MAX)


# --- bits of the key ----------------------------------------------------------------------------


def _at(name: str, raw: bytes, skip: int = 0) -> int:
    """Bytes in the place of a field, ``skip`` bytes behind its beginning."""
    return int.from_bytes(raw, "little") << 8 * (KEY_FIELDS[name][0] + skip)


def _number(name: str, raw: bytes) -> int:
    """A number in network byte order, put into its field as the host has it."""
    size = KEY_FIELDS[name][1]
    return _at(name, int.from_bytes(raw, "big").to_bytes(size, sys.byteorder))


def _all(name: str) -> int:
    return _at(name, b"\xff" * KEY_FIELDS[name][1])


def _layers(on: int, off: int = 0) -> Alternative:
    return _bits(_at("layers", bytes([on])), _at("layers", bytes([on | off])))


def _exactly(name: str, raw: bytes) -> Alternative:
    return _bits(_number(name, raw), _all(name))


def _both(*parts: Alternative) -> Alternative:
    whole = ANY
    for part in parts:
        joined = join(whole, part)
        assert joined is not None, "a field implies what contradicts itself"
        whole = joined
    return whole


# Later fragments have no layer 4 header; ARP's fields are not IP's and the other way round.
IS_IP = _layers(native.IP)
IS_V4 = _both(IS_IP, _exactly("ip_version", b"\x04"))
IS_V6 = _both(IS_IP, _exactly("ip_version", b"\x06"))
IS_ARP = _both(_layers(native.L3, native.IP), _exactly("eth_type", ETH_ARP))
HAS_PORTS = _layers(native.PORTS | native.L4 | native.IP, native.LATER)
IS_TCP = _both(_layers(native.L4 | native.IP, native.LATER), _exactly("ip_proto", bytes([TCP])))
_HAS_TYPE = _layers(native.L4 | native.IP, native.LATER | native.PORTS)
IS_ICMP = _both(_HAS_TYPE, IS_V4, _exactly("ip_proto", bytes([ICMP])))
IS_ICMPV6 = _both(_HAS_TYPE, IS_V6, _exactly("ip_proto", bytes([ICMPV6])))
IS_TAGGED = _layers(native.TAGGED)
FRAGMENTS = {
    "none": _layers(native.IP, native.FRAGMENT),
    "first": _layers(native.IP | native.FRAGMENT, native.LATER),
    "later": _layers(native.IP | native.FRAGMENT | native.LATER),
    "any": _layers(native.IP | native.FRAGMENT),
}


# --- fields: a term's parts to its alternatives ---------------------------------------------------


def _masked(
    masks: Masks, sizes: tuple[int, ...], place: Callable[[bytes], int], implied: Alternative
) -> Iterator[Alternative]:
    for value, mask in masks:
        if len(value) not in sizes or len(mask) != len(value):
            wanted = " or ".join(str(size) for size in sizes)
            raise ValueError(f"{value.hex(':') or 'nothing'} is not of {wanted} bytes")
        bits = place(mask)
        found = join(_bits(place(value) & bits, bits), implied)
        if found is not None:
            yield found


def _plain(name: str, implied: Alternative, masks: Masks) -> Iterator[Alternative]:
    """Bytes in wire order: a station's address."""
    size = KEY_FIELDS[name][1]
    return _masked(masks, (size,), lambda raw: _at(name, raw), implied)


def _numeric(name: str, size: int, implied: Alternative, masks: Masks) -> Iterator[Alternative]:
    return _masked(masks, (size,), lambda raw: _number(name, raw), implied)


def _dscp(masks: Masks) -> Iterator[Alternative]:
    """The upper six bits of the traffic class."""

    def shifted(raw: bytes) -> int:
        if raw[0] > 0x3F:
            raise ValueError(f"{raw[0]} is not of six bits")
        return _at("ip_tos", bytes([raw[0] << 2]))

    return _masked(((v, bytes([m[0] & 0x3F])) for v, m in masks if m), (1,), shifted, IS_IP)


def _address(name: str, masks: Masks) -> Iterator[Alternative]:
    """The size says the version. Written out, for most terms of most rules are these."""
    shift = 8 * KEY_FIELDS[name][0]
    for value, mask in masks:
        if len(value) == 4 == len(mask):
            implied, by = IS_V4, shift + 8 * 12
        elif len(value) == 16 == len(mask):
            implied, by = IS_V6, shift
        else:
            raise ValueError(f"{value.hex(':') or 'nothing'} is not of 4 or 16 bytes")
        bits = int.from_bytes(mask, "little") << by
        fixed = (int.from_bytes(value, "little") << by) & bits
        yield (fixed | implied[0], bits | implied[1], 0, PORT_MAX, 0, PORT_MAX)


def _arp(name: str, size: int, skip: int, masks: Masks) -> Iterator[Alternative]:
    return _masked(masks, (size,), lambda raw: _at(name, raw, skip), IS_ARP)


def _arp_op(masks: Masks) -> Iterator[Alternative]:
    """The key holds the lower byte; operations have been below 256 since RFC 826."""
    for value, mask in masks:
        if len(value) != 2 or len(mask) != 2:
            raise ValueError(f"{value.hex(':')} is not of 2 bytes")
        if not value[0] & mask[0]:
            yield from _masked(
                [(value[1:], mask[1:])], (1,), lambda raw: _at("ip_proto", raw), IS_ARP
            )


def _tagged(masks: Masks) -> Iterator[Alternative]:
    for value, _ in masks:
        yield IS_TAGGED if value != b"\0" else _layers(0, native.TAGGED)


def _type(side: str, implied: Alternative, masks: Masks) -> Iterator[Alternative]:
    """Type and code of ICMP lie where ports do, as ranges, for masks there are all or nothing."""
    values: set[int] = set()
    for value, mask in masks:
        if len(value) != 1 or len(mask) != 1:
            raise ValueError(f"{value.hex(':')} is not of 1 byte")
        values |= {n for n in range(256) if n & mask[0] == value[0] & mask[0]}
    return _ranged(side, implied, ((n, n) for n in values))


def _ranged(
    side: str, implied: Alternative, ranges: Iterable[tuple[int, int]]
) -> Iterator[Alternative]:
    for first, last in _merged(ranges):
        if side == "src":
            yield (implied[0], implied[1], first, last, 0, PORT_MAX)
        else:
            yield (implied[0], implied[1], 0, PORT_MAX, first, last)


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """The same numbers in as few ranges as possible."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if not 0 <= first <= last <= PORT_MAX:
            raise ValueError(f"{first}-{last} is no range of ports")
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(merged[-1][1], last))
        else:
            merged.append((first, last))
    return merged


def _words(known: Mapping[str, Alternative], words: Iterable[str]) -> Iterator[Alternative]:
    for word in words:
        if word not in known:
            raise ValueError(f"is one of {', '.join(known)}, not {word!r}")
        yield known[word]


_STATES = {
    word: _bits(_at("state", bytes([bit])), _at("state", bytes([bit])))
    for word, bit in native.STATES.items()
}

# By what a term of the field holds. in_port, whose words are names, is the compiler's.
MASKED: dict[str, Callable[[Masks], Iterator[Alternative]]] = {
    "eth_dst": partial(_plain, "eth_dst", ANY),
    "eth_src": partial(_plain, "eth_src", ANY),
    "eth_type": partial(_numeric, "eth_type", 2, ANY),
    "vlan_tagged": _tagged,
    "vlan_vid": partial(_numeric, "vid", 2, ANY),
    "vlan_pcp": partial(_numeric, "vlan_pcp", 1, IS_TAGGED),
    "ip_version": partial(_numeric, "ip_version", 1, IS_IP),
    "ip_src": partial(_address, "ip_src"),
    "ip_dst": partial(_address, "ip_dst"),
    "ip_proto": partial(_numeric, "ip_proto", 1, IS_IP),
    "ip_dscp": _dscp,
    "ip_ttl": partial(_numeric, "ip_ttl", 1, IS_IP),
    "tcp_flags": partial(_numeric, "tcp_flags", 1, IS_TCP),
    "icmp_type": partial(_type, "src", IS_ICMP),
    "icmp_code": partial(_type, "dst", IS_ICMP),
    "icmpv6_type": partial(_type, "src", IS_ICMPV6),
    "icmpv6_code": partial(_type, "dst", IS_ICMPV6),
    "arp_op": _arp_op,
    "arp_spa": partial(_arp, "ip_src", 4, 12),
    "arp_tpa": partial(_arp, "ip_dst", 4, 12),
    "arp_sha": partial(_arp, "ip_src", 6, 0),
    "arp_tha": partial(_arp, "ip_dst", 6, 0),
}
RANGED: dict[str, Callable[[Iterable[tuple[int, int]]], Iterator[Alternative]]] = {
    "l4_src": partial(_ranged, "src", HAS_PORTS),
    "l4_dst": partial(_ranged, "dst", HAS_PORTS),
}
WORDED: dict[str, Callable[[Iterable[str]], Iterator[Alternative]]] = {
    "fragment": partial(_words, FRAGMENTS),
    "state": partial(_words, _STATES),
}
FIELDS = frozenset({"in_port", *MASKED, *RANGED, *WORDED})


def _of_parts(
    name: str, masks: Masks, ranges: Iterable[tuple[int, int]], words: Iterable[str]
) -> tuple[Alternative, ...]:
    """Alternatives of one field, each once; ValueError says what is wrong with them."""
    if name in MASKED:
        found = MASKED[name](masks)
    elif name in RANGED:
        found = RANGED[name](ranges)
    else:
        found = WORDED[name](words)
    return tuple(dict.fromkeys(found))


@lru_cache(TERMS_CACHED)
def _term(term: WireTerm) -> tuple[Alternative, ...]:
    """Of a term that names nothing."""
    if term.field not in FIELDS:
        raise RuleError("INVALID", "match", f"there is no field {term.field!r}")
    try:
        return _of_parts(term.field, term.masks, term.ranges, term.words)
    except ValueError as error:
        raise RuleError("INVALID", f"match.{term.field}", str(error)) from None


# --- rules --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Names:
    """What rules refer to by name: groups themselves, numbers of everything else."""

    groups: dict[str, WireGroup] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    policers: dict[str, int] = field(default_factory=dict)
    sets: dict[str, int] = field(default_factory=dict)


def uses(rule: WireRule) -> tuple[str, ...]:
    """Keys of the objects a rule refers to."""
    action = rule.action
    found = [f"group/{term.group}" for term in rule.match if term.group]
    found += [f"port/{w}" for term in rule.match if term.field == "in_port" for w in term.words]
    if action.port:
        found.append(f"port/{action.port}")
    if action.policer:
        found.append(f"policer/{action.policer}")
    if action.ruleset:
        found.append(f"ruleset/{action.ruleset}")
    return tuple(dict.fromkeys(found))


class Compiler:
    """Compiles rules; what groups expand to is kept as long as the group is the same object."""

    def __init__(self, names: Names, matches_max: int = MATCHES_MAX) -> None:
        self.names = names
        self.matches_max = matches_max
        self._groups: dict[tuple[str, str], tuple[WireGroup, tuple[Alternative, ...]]] = {}

    def matches(self, rule: WireRule) -> bytes:
        """An array of ``struct rule_match``, perhaps empty: such a rule matches nothing."""
        return b"".join(map(pack, self.alternatives(rule)))

    def alternatives(self, rule: WireRule) -> Collection[Alternative]:
        """RuleError when there are too many or a reference is absent."""
        found: Collection[Alternative] = _ALL
        tries = TRIES * self.matches_max
        for term in rule.match:
            named = term.group or term.field == "in_port"
            more = self._of_names(term) if named else _term(term)
            if found is _ALL:
                found = more
            elif len(found) == len(more) == 1:  # most terms of most rules
                (a,), (b,) = found, more
                both = join(a, b)
                found = () if both is None else (both,)
            else:
                tries -= len(found) * len(more)
                if tries < 0:
                    raise self._too_many(term)
                found = {both: None for a in found for b in more if (both := join(a, b))}
            if len(found) > self.matches_max:
                raise self._too_many(term)
        return found

    def _too_many(self, term: WireTerm) -> RuleError:
        text = f"the rule is more than {self.matches_max} alternatives"
        return RuleError("RULE_LIMIT", f"match.{term.field}", text)

    def _of_names(self, term: WireTerm) -> tuple[Alternative, ...]:
        if term.field != "in_port":
            return self._group(term)
        numbers = (self._named("match.in_port", "port", word) for word in term.words)
        return tuple({_exactly("in_port", n.to_bytes(2, "big")): None for n in numbers})

    def _group(self, term: WireTerm) -> tuple[Alternative, ...]:
        group = self.names.groups.get(term.group)
        where = f"match.{term.field}"
        if group is None:
            raise RuleError("REFERENCE_NOT_FOUND", where, f"group {term.group} is not there")
        if term.field not in MASKED and term.field not in RANGED:
            raise RuleError("INVALID", where, "takes no group")
        known = self._groups.get((term.field, term.group))
        if known is not None and known[0] is group:
            return known[1]
        try:
            found = _of_parts(term.field, group.masks, group.ranges, ())
        except ValueError as error:
            raise RuleError("INVALID", where, f"group {term.group}: {error}") from None
        self._groups[term.field, term.group] = (group, found)
        return found

    def _named(self, where: str, kind: str, name: str) -> int:
        numbers = {
            "port": self.names.ports,
            "policer": self.names.policers,
            "ruleset": self.names.sets,
        }
        number = numbers[kind].get(name)
        if number is None:
            raise RuleError("REFERENCE_NOT_FOUND", where, f"{kind} {name} is not there")
        return number

    def action(self, rule: WireRule) -> PlacedAction:
        action = rule.action
        number = native.ACTIONS.get(action.type)
        if number is None:
            raise RuleError("INVALID", "action.type", f"there is no action {action.type!r}")
        match action.type:
            case "redirect" | "mirror":
                port = self._named("action.port", "port", action.port)
                return PlacedAction(number, rule.log, port=port, snaplen=_snaplen(action.snaplen))
            case "police":
                policer = self._named("action.policer", "policer", action.policer)
                return PlacedAction(number, rule.log, policer=policer)
            case "jump":
                target = self._named("action.ruleset", "ruleset", action.ruleset)
                return PlacedAction(number, rule.log, set=target)
            case "set":
                return _set_action(rule, number)
            case _:
                return _bare_action(number, rule.log)


@lru_cache
def _bare_action(number: int, log: bool) -> PlacedAction:
    return PlacedAction(number, log)


def _snaplen(value: int) -> int:
    if not 0 <= value <= 0xFFFFFFFF:
        raise RuleError("INVALID", "action.snaplen", f"{value} is out of range")
    return value


def _set_action(rule: WireRule, number: int) -> PlacedAction:
    action = rule.action
    fields = 0
    for bit, name, value, most in (
        (native.SET_VLAN, "vlan", action.vlan, 4094),
        (native.SET_PCP, "pcp", action.pcp, 7),
        (native.SET_DSCP, "dscp", action.dscp, 63),
    ):
        if value is None:
            continue
        if not 0 <= value <= most:
            raise RuleError("INVALID", f"action.{name}", f"is 0 to {most}, not {value}")
        fields |= bit
    if action.eth_src:
        fields |= native.SET_ETH_SRC
    if action.eth_dst:
        fields |= native.SET_ETH_DST
    return PlacedAction(
        number,
        rule.log,
        set_fields=fields,
        vid=action.vlan or 0,
        pcp=action.pcp or 0,
        dscp=action.dscp or 0,
        eth_src=_mac("eth_src", action.eth_src),
        eth_dst=_mac("eth_dst", action.eth_dst),
    )


def _mac(name: str, text: str) -> bytes:
    try:
        raw = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        raw = b"?"
    if text and len(raw) != 6:
        raise RuleError("INVALID", f"action.{name}", f"{text!r} is no MAC address")
    return raw or bytes(6)


def problem(rule: WireRule) -> None:
    """RuleError when the rule's own values, whatever it refers to, are none."""
    size = len(rule.id.encode())
    if not 0 < size <= native.RULE_ID_BYTES_MAX or "\0" in rule.id:
        text = f"has 1 to {native.RULE_ID_BYTES_MAX} bytes, not {size}"
        raise RuleError("INVALID", "id", text)
    if not PRIORITY_MIN <= rule.priority <= PRIORITY_MAX:
        raise RuleError("INVALID", "priority", f"{rule.priority} is out of range")


_RANGES = struct.Struct("=4H")
_SHIFTS = (8 * KEY_FIELDS["l4_src"][0], 8 * KEY_FIELDS["l4_dst"][0])


def pack(alternative: Alternative) -> bytes:
    """One ``struct rule_match``. A range of one port is compared like everything else."""
    value, mask, *ranges = alternative
    src_lo, src_hi, dst_lo, dst_hi = ranges
    packed = _RANGES.pack(src_lo, src_hi, dst_lo, dst_hi)
    if src_lo == src_hi:
        value |= int.from_bytes(packed[0:2], "little") << _SHIFTS[0]
        mask |= PORT_MAX << _SHIFTS[0]
    if dst_lo == dst_hi:
        value |= int.from_bytes(packed[4:6], "little") << _SHIFTS[1]
        mask |= PORT_MAX << _SHIFTS[1]
    return value.to_bytes(KEY_BYTES, "little") + mask.to_bytes(KEY_BYTES, "little") + packed
