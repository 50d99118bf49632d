"""Rule sets of the shape that ClassBench gives them, and frames that meet their rules.

D. E. Taylor, J. S. Turner: "ClassBench: A Packet Classification Benchmark", IEEE/ACM ToN 2007. Its
own generator draws from statistics of real filter sets, which are not free; here are three shapes
with the properties that matter to a classifier: how long the prefixes are on both sides, which
ports are ranges, how much overlaps.

    acl   long prefixes on both sides, one exact port of the server
    fw    many rules without a source or without a destination, ranges of ports on both sides
    ipc   a mix of both

Files of ClassBench's own format are read, too (`read`). The same rules go to every subject:
`for_api`, `for_nft`, `for_ovs`; the same frames, too: `frames`.
"""

from __future__ import annotations

import gzip
import random
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from tests.support import peer_rules
from tests.support.packets import checksum
from tests.support.peer_rules import Match, Rule

ANY_PORT = (0, 65535)
TCP, UDP, ICMP = 6, 17, 1
SHAPES = ("acl", "fw", "ipc")
WELL_KNOWN = (20, 21, 22, 23, 25, 53, 67, 80, 110, 123, 135, 139, 143, 161, 389, 443, 445, 514)
WELL_KNOWN += (636, 993, 995, 1433, 1521, 1723, 2049, 3306, 3389, 5060, 5432, 8000, 8080, 8443)


@dataclass(frozen=True)
class Filter:
    """Prefixes as (address, length), ports as (first, last), all numbers; proto None: any."""

    src: tuple[int, int]
    dst: tuple[int, int]
    sport: tuple[int, int]
    dport: tuple[int, int]
    proto: int | None

    @property
    def has_ports(self) -> bool:
        return self.sport != ANY_PORT or self.dport != ANY_PORT


def read(path: Path) -> list[Filter]:
    """A file of ClassBench's format, first rule first. Masks of protocols are 00 or ff."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
        return [_parse(line) for line in lines if line.startswith("@")]


def _parse(line: str) -> Filter:
    words = line[1:].replace(":", " ").split()
    number, mask = (int(word, 16) for word in words[6].split("/"))
    ports = [int(word) for word in words[2:6]]
    return Filter(
        *(_prefix(word) for word in words[:2]),
        (ports[0], ports[1]),
        (ports[2], ports[3]),
        number if mask else None,
    )


def _prefix(text: str) -> tuple[int, int]:
    address, length = text.split("/")
    value = int.from_bytes(bytes(map(int, address.split("."))), "big")
    return _masked(value, int(length))


def _masked(address: int, length: int) -> tuple[int, int]:
    return address & ~((1 << (32 - length)) - 1) & 0xFFFFFFFF, length


class _Drawing:
    """Draws rules of one shape from a limited number of networks, so that they overlap."""

    def __init__(self, shape: str, count: int, seed: int) -> None:
        self._random = random.Random(f"{shape} {count} {seed}")
        self._shape = shape
        sites = max(8, count // 40)
        self._sites = [self._random.randrange(1 << 32) for _ in range(sites)]

    def take(self) -> Filter:
        shape = self._shape
        if shape == "ipc":
            shape = self._random.choice(("acl", "acl", "fw"))
        return self._acl() if shape == "acl" else self._fw()

    def _network(self, lengths: Sequence[int]) -> tuple[int, int]:
        length = self._random.choice(lengths)
        site = self._random.choice(self._sites)
        low = self._random.getrandbits(12)
        return _masked(site & 0xFFFFF000 | low, length)

    def _range(self) -> tuple[int, int]:
        draw = self._random
        kind = draw.choices(("any", "high", "low", "range", "one"), (30, 15, 5, 15, 35))[0]
        if kind == "range":
            first = draw.choice(WELL_KNOWN)
            return first, first + draw.choice((1, 3, 9, 100, 1000))
        port = draw.choice(WELL_KNOWN)
        return {"any": ANY_PORT, "high": (1024, 65535), "low": (0, 1023)}.get(kind, (port, port))

    def _acl(self) -> Filter:
        draw = self._random
        src = self._network((0, 16, 20, 24, 24, 26, 28, 30, 32, 32, 32, 32))
        dst = self._network((16, 21, 22, 23, 24, 24, 25, 27, 28, 30, 31, 32, 32, 32, 32))
        proto = draw.choices((TCP, UDP, ICMP, None), (75, 13, 5, 7))[0]
        if proto not in (TCP, UDP):
            return Filter(src, dst, ANY_PORT, ANY_PORT, proto)
        one = draw.choice(WELL_KNOWN)
        dport = draw.choices(((one, one), self._range(), ANY_PORT), (75, 15, 10))[0]
        return Filter(src, dst, ANY_PORT, dport, proto)

    def _fw(self) -> Filter:
        draw = self._random
        src = self._network((0, 0, 0, 0, 8, 16, 20, 24, 24, 28, 30, 32, 32))
        dst = self._network((0, 0, 0, 8, 14, 16, 22, 24, 24, 27, 28, 29, 32, 32))
        proto = draw.choices((TCP, UDP, ICMP, 47, None), (60, 22, 6, 2, 10))[0]
        if proto not in (TCP, UDP):
            return Filter(src, dst, ANY_PORT, ANY_PORT, proto)
        return Filter(src, dst, self._range(), self._range(), proto)


def generate(shape: str, count: int, seed: int = 1) -> list[Filter]:
    """`count` different filters of a shape; the most specific ones come first, as people write
    them, so that few are hidden."""
    if shape not in SHAPES:
        raise ValueError(f"{shape} is none of {', '.join(SHAPES)}")
    drawing = _Drawing(shape, count, seed)
    found: dict[Filter, None] = {}
    while len(found) < count:
        found[drawing.take()] = None
    return sorted(found, key=lambda f: (-f.src[1] - f.dst[1], f.dport[1] - f.dport[0]))


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
        stations = bytes.fromhex("020000020000020000010000")
        return stations + b"\x08\x00" + head + tail + bytes(6)


def headers(filters: Sequence[Filter], flows: int, seed: int = 1) -> list[Header]:
    """`flows` different headers, each inside of a rule that was drawn at random (an earlier one may
    take it)."""
    draw = random.Random(f"headers {seed}")
    found: dict[Header, None] = {}
    while len(found) < flows:
        rule = draw.choice(filters)
        proto = rule.proto if rule.proto is not None else draw.choice((TCP, UDP))
        ports = (draw.randint(*rule.sport), draw.randint(*rule.dport))
        if proto not in (TCP, UDP):
            ports = (0, 0)
        src, dst = (
            value | draw.getrandbits(32) & ((1 << (32 - length)) - 1)
            for value, length in (rule.src, rule.dst)
        )
        found[Header(src, dst, *ports, proto)] = None
    order = list(found)
    draw.shuffle(order)
    return order


def frames(filters: Sequence[Filter], flows: int, seed: int = 1) -> list[bytes]:
    """One frame of each flow; replayed over and over, every flow comes as often."""
    return [header.frame() for header in headers(filters, flows, seed)]


def write_pcap(path: Path, some: Iterable[bytes]) -> None:
    with path.open("wb") as out:
        out.write(struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1))
        for frame in some:
            out.write(struct.pack("=IIII", 0, 0, len(frame), len(frame)) + frame)


def rules(filters: Sequence[Filter]) -> list[Rule]:
    """As rules that allow, so that what they cost is not what a drop saves. Those with ports and
    no protocol are about TCP."""
    return [Rule(_match(f), allow=True) for f in filters]


def _match(f: Filter) -> Match:
    def network(prefix: tuple[int, int]) -> tuple[bytes, bytes] | None:
        value, length = prefix
        mask = ((1 << length) - 1) << (32 - length)
        return (value.to_bytes(4, "big"), mask.to_bytes(4, "big")) if length else None

    return Match(
        version=4,
        src=network(f.src),
        dst=network(f.dst),
        proto=TCP if f.proto is None and f.has_ports else f.proto,
        sport=() if f.sport == ANY_PORT else (f.sport,),
        dport=() if f.dport == ANY_PORT else (f.dport,),
    )


def for_api(filters: Sequence[Filter]) -> list[dict[str, Any]]:
    return peer_rules.api(rules(filters))


def for_nft(filters: Sequence[Filter]) -> Iterator[str]:
    return peer_rules.nft(rules(filters))


def for_ovs(filters: Sequence[Filter], to: str) -> Iterator[str]:
    return peer_rules.ovs(rules(filters), to)


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
