"""Sets of rules as ClassBench makes them, for benchmarks: generated, or read from its files.

Three shapes after the seeds of ClassBench (Taylor, Turner: "ClassBench: A Packet Classification
Benchmark", IEEE/ACM ToN 2007): `acl` (long prefixes on both sides, ports of servers), `fw` (one
side mostly open, few ports), `ipc` (everything mixed). What makes them hard is kept: how prefix
lengths pair up, how few different networks there are, which ranges of ports occur. A seed and a
size give the same set on every machine.

A file has one rule a line, the first one first::

    @SRC/LEN DST/LEN SPORT_LO : SPORT_HI DPORT_LO : DPORT_HI PROTO/MASK FLAGS/MASK
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

SHAPES = ("acl", "fw", "ipc")
SIZES = (100, 1_000, 10_000, 100_000)
ANY_PORT = (0, 65535)
LINE = re.compile(
    r"@(?P<src>\S+)\s+(?P<dst>\S+)\s+(\d+)\s*:\s*(\d+)\s+(\d+)\s*:\s*(\d+)\s+"
    r"0x(?P<proto>[0-9a-fA-F]+)/0x(?P<mask>[0-9a-fA-F]+)"
)


@dataclass(frozen=True)
class FiveTuple:
    """What one rule matches. proto None: any."""

    src: IPv4Network
    dst: IPv4Network
    sport: tuple[int, int]
    dport: tuple[int, int]
    proto: int | None

    def line(self) -> str:
        proto = "0x00/0x00" if self.proto is None else f"0x{self.proto:02X}/0xFF"
        sport, dport = (f"{low} : {high}" for low, high in (self.sport, self.dport))
        return f"@{self.src}\t{self.dst}\t{sport}\t{dport}\t{proto}\t0x0000/0x0000"


# --- files ---------------------------------------------------------------------------------------


def read(path: Path) -> list[FiveTuple]:
    """The rules of a ClassBench file, which may be compressed. Its flags are not read: sets that
    are compared in the literature are five-tuples. ValueError: a line is no rule."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("ascii")
    return [_rule(line) for line in text.splitlines() if line.strip()]


def _rule(line: str) -> FiveTuple:
    found = LINE.match(line)
    if found is None:
        raise ValueError(f"not a ClassBench rule: {line!r}")
    ports = [int(found.group(n)) for n in range(3, 7)]
    return FiveTuple(
        IPv4Network(found["src"], strict=False),
        IPv4Network(found["dst"], strict=False),
        (ports[0], ports[1]),
        (ports[2], ports[3]),
        int(found["proto"], 16) if int(found["mask"], 16) else None,
    )


def write(rules: Sequence[FiveTuple], path: Path) -> None:
    path.write_text("".join(f"{rule.line()}\n" for rule in rules))


# --- generated -----------------------------------------------------------------------------------

Weighted = dict[int, int]


@dataclass(frozen=True)
class Shape:
    """`sources`, `destinations`: prefix lengths by weight. `networks`: how many different ones
    there are on each side for each 1,000 rules. `open_pairs`: per cent of the rules that leave one
    side open. Ports and protocols: in per cent."""

    sources: Weighted
    destinations: Weighted
    networks: tuple[int, int]
    open_pairs: int
    sport_given: int
    dport_given: int
    dport_ranges: Sequence[tuple[int, int]]
    dport_range: int
    services: int
    protos: Weighted


LONG: Weighted = {32: 54, 31: 25, 30: 5, 29: 1, 28: 1, 25: 1, 24: 4, 23: 7, 22: 2}
NETS: Weighted = {32: 51, 31: 20, 30: 4, 25: 2, 24: 2, 23: 4, 22: 7, 21: 2, 17: 1, 16: 2, 15: 1}
HOSTS: Weighted = {32: 40, 31: 32, 30: 9, 29: 5, 28: 5, 27: 2, 26: 2, 22: 2, 21: 2, 20: 1}
MIXED: Weighted = {
    **{32: 24, 31: 10, 30: 2, 28: 3, 27: 3, 26: 5, 25: 10, 24: 14, 23: 11},
    **{22: 4, 17: 3, 16: 4, 15: 2, 8: 1, 1: 3},
}
SHAPE: dict[str, Shape] = {
    "acl": Shape(
        *(LONG, NETS, (420, 30), 1, 0, 72),
        ((1600, 1649), (1300, 1349), (1025, 65535), (32200, 32207), (7500, 7599), (20000, 20010)),
        *(11, 70, {6: 88, 17: 2, 1: 3, 0: 7}),
    ),
    "fw": Shape(
        *(HOSTS, HOSTS, (370, 700), 92, 23, 70),
        *(((1024, 65535), (33434, 33600)), 8, 40, {6: 56, 17: 34, 47: 5, 1: 4, 0: 1}),
    ),
    "ipc": Shape(
        *(MIXED, MIXED, (150, 110), 14, 20, 46),
        ((1024, 65535), (109, 110), (20, 23), (20, 21), (1645, 1646), (1812, 1813)),
        *(7, 45, {17: 39, 0: 30, 6: 29, 1: 2}),
    ),
}
WELL_KNOWN = (20, 21, 22, 23, 25, 53, 67, 69, 80, 110, 123, 139, 143, 161, 389, 443, 445, 993)
PROTOS_WITH_PORTS = (6, 17)


class Generator:
    def __init__(self, shape: Shape, count: int, seed: int) -> None:
        self.shape = shape
        self.random = random.Random(f"{seed} {count}")
        self.ports = [*WELL_KNOWN, *(self.random.randrange(1024, 50000) for _ in range(60))]
        self.ports = self.ports[: shape.services]
        pools = [max(8, count * networks // 1000) for networks in shape.networks]
        self.sources = self._networks(shape.sources, pools[0])
        self.destinations = self._networks(shape.destinations, pools[1])

    def _pick(self, weights: Weighted) -> int:
        return self.random.choices(list(weights), list(weights.values()))[0]

    def _networks(self, lengths: Weighted, count: int) -> list[IPv4Network]:
        """Half of them lie close together, as an organization's own do."""
        homes = [self.random.getrandbits(16) << 16 for _ in range(max(1, count // 64))]
        found = []
        for _ in range(count):
            address = self.random.getrandbits(32)
            if self.random.random() < 0.5:
                address = self.random.choice(homes) | address & 0xFFFF
            found.append(IPv4Network((address, self._pick(lengths)), strict=False))
        return found

    def _chance(self, per_cent: int) -> bool:
        return self.random.randrange(100) < per_cent

    def _port(self, given: int, ranges: Sequence[tuple[int, int]], range_: int) -> tuple[int, int]:
        if not self._chance(given):
            return ANY_PORT
        if self._chance(range_ * 100 // given):
            return self.random.choice(ranges)
        port = self.random.choice(self.ports)
        return port, port

    def rules(self) -> Iterator[FiveTuple]:
        shape = self.shape
        wide = [IPv4Network((0, length)) for length in (0, 0, 0, 1, 1, 2)]
        wide += [IPv4Network((1 << 31, 1))]
        while True:
            sides = [self.random.choice(self.sources), self.random.choice(self.destinations)]
            if self._chance(shape.open_pairs):
                sides[self._chance(25)] = self.random.choice(wide)
            proto = self._pick(shape.protos) or None
            ports = [ANY_PORT, ANY_PORT]
            if proto in PROTOS_WITH_PORTS:
                ports[0] = self._port(shape.sport_given, [(1024, 65535)], shape.sport_given // 3)
                ports[1] = self._port(shape.dport_given, shape.dport_ranges, shape.dport_range)
            yield FiveTuple(sides[0], sides[1], ports[0], ports[1], proto)


def generate(shape: str, count: int, seed: int = 1) -> list[FiveTuple]:
    """`count` different rules, narrow ones mostly before wide ones, as in sets that make sense."""
    different: dict[FiveTuple, None] = {}
    for rule in Generator(SHAPE[shape], count, seed).rules():
        different.setdefault(rule)
        if len(different) == count:
            break
    order = random.Random(seed)
    return sorted(different, key=lambda rule: -_length(rule) + order.uniform(-24, 24))


def _length(rule: FiveTuple) -> int:
    return rule.src.prefixlen + rule.dst.prefixlen
