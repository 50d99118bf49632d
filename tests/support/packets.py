"""Generated frames for comparing what rules decide: the same seed gives the same frames.

Each has a number in its destination address (02:NN:NN:NN:NN:CC), so that also the shortest one is
known again where it arrives, and nothing is ever learned for it. Addresses and ports come from
small pools, so that rules drawn from the same pools meet many of them.

`kind` names what is unusual about a frame:

    options, extensions      IPv4 options, IPv6 extension headers, all sound
    first, later             fragments
    padded                   bytes behind the IP packet's end
    tagged, priority, qinq   VLAN tags
    cut                      the frame or its IP packet ends inside the layer 4 header
    broken                   the IP header contradicts itself or the frame ends in it
    disguised                no IPv4, although the 15th byte looks like one
    other                    no IP and no ARP
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
ICMP, TCP, UDP, ICMPV6 = 1, 6, 17, 58

SOURCES = [bytes([2, 0, 0x5E, 0, i >> 2, i]) for i in range(16)]
CLASSES = 4  # last bytes of destination addresses
V4 = [bytes(a) for a in ((10, 0, 0, 1), (10, 0, 7, 9), (10, 1, 2, 3), (10, 200, 0, 77))]
V4 += [bytes(a) for a in ((192, 0, 2, 1), (192, 0, 2, 130), (198, 51, 100, 7), (11, 0, 0, 1))]
_V6_PREFIXES = ("20010db8", "20010db8000100", "fe80", "20010db9")
V6 = [
    bytes.fromhex(prefix.ljust(30, "0")) + bytes([end])
    for prefix in _V6_PREFIXES
    for end in (1, 129)
]
PORTS = [22, 53, 79, 80, 81, 443, 1023, 1024, 8000, 8080, 8081, 40000, 65535]
VIDS = [1, 10, 20, 4094]
DSCPS = [0, 10, 46]
TTLS = [1, 64, 255]
TCP_FLAGS = [0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0x14, 0x29, 0x00]
ICMP_TYPES = [(0, 0), (8, 0), (3, 1), (3, 13), (11, 0)]
ICMPV6_TYPES = [(128, 0), (129, 0), (1, 1), (2, 0), (135, 0)]


@dataclass(frozen=True)
class Made:
    """A generated frame; ``tags`` are its TCIs, ``version`` that of a sound IP header, else 0."""

    number: int
    data: bytes
    kind: frozenset[str]
    version: int = 0


@dataclass
class _Draft:
    ethertype: int = 0
    body: bytes = b""
    version: int = 0
    kind: set[str] = field(default_factory=set)


def number_of(frame: bytes) -> int | None:
    """The number of a frame of these; None of another's."""
    if len(frame) < 14 or frame[0] != 2 or frame[6:9] != SOURCES[0][:3]:
        return None
    return int.from_bytes(frame[1:5], "big")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    words = struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2))
    total = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class Packets:
    """An endless stream of frames."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._number = 0
        self._kinds: list[tuple[int, Callable[[], _Draft]]] = [
            (46, self._ipv4),
            (30, self._ipv6),
            (8, self._arp),
            (5, self._other),
            (4, self._disguised),
            (7, self._broken),
        ]

    def take(self, count: int) -> Iterator[Made]:
        for _ in range(count):
            yield self._frame()

    def _frame(self) -> Made:
        draw = self._random
        make = draw.choices([k[1] for k in self._kinds], [k[0] for k in self._kinds])[0]
        draft = make()
        tags = self._tags(draft)
        self._number += 1
        destination = b"\x02" + self._number.to_bytes(4, "big") + bytes([draw.randrange(CLASSES)])
        head = destination + draw.choice(SOURCES) + tags + struct.pack("!H", draft.ethertype)
        # a kernel that finds too little behind a tag drops the frame before any switch sees it
        data = head + draft.body.ljust(8 if tags else 0, b"\0")
        if draft.version and draw.random() < 0.2:
            draft.kind.add("padded")
            data += draw.randbytes(draw.randrange(1, 40))
        return Made(self._number, data, frozenset(draft.kind), draft.version)

    def _tags(self, draft: _Draft) -> bytes:
        draw = self._random
        how = draw.choices(("", "tagged", "priority", "qinq"), (75, 17, 4, 4))[0]
        if not how:
            return b""
        draft.kind.add(how)
        vids = [0] if how == "priority" else draw.choices(VIDS, k=2 if how == "qinq" else 1)
        tpids = [draw.choice((0x8100, 0x88A8)), 0x8100] if how == "qinq" else [0x8100]
        return b"".join(
            struct.pack("!HH", tpid, draw.randrange(8) << 13 | vid)
            for tpid, vid in zip(tpids, vids, strict=True)
        )

    # --- layer 4 ------------------------------------------------------------------------------

    def _segment(self, version: int) -> tuple[int, bytes]:
        """Protocol, and header with some payload; checksums are not looked at by rules."""
        draw = self._random
        payload = draw.randbytes(draw.randrange(64))
        proto = draw.choice((TCP, TCP, UDP, UDP, ICMP if version == 4 else ICMPV6, 47))
        ports = struct.pack("!HH", draw.choice(PORTS), draw.choice(PORTS))
        if proto == TCP:
            rest = struct.pack("!IIBBHHH", 1, 2, 5 << 4, draw.choice(TCP_FLAGS), 512, 0, 0)
            return proto, ports + rest + payload
        if proto == UDP:
            return proto, ports + struct.pack("!HH", 8 + len(payload), 0) + payload
        if proto in (ICMP, ICMPV6):
            kind = draw.choice(ICMP_TYPES if proto == ICMP else ICMPV6_TYPES)
            return proto, bytes(kind) + bytes(6) + payload
        return proto, draw.randbytes(24) + payload

    def _cut(self, draft: _Draft, proto: int, segment: bytes) -> bytes:
        """Now and then the layer 4 header is not all there."""
        need = {TCP: 20, UDP: 8, ICMP: 4, ICMPV6: 4}.get(proto, 0)
        if not need or self._random.random() > 0.05:
            return segment
        draft.kind.add("cut")
        return segment[: self._random.randrange(need)]

    # --- layer 3 ------------------------------------------------------------------------------

    def _fragment(self, draft: _Draft) -> tuple[int, bool]:
        """Offset in units of 8 bytes, and whether more follow."""
        how = self._random.choices(("", "first", "later", "last"), (85, 5, 5, 5))[0]
        if not how:
            return 0, False
        draft.kind.add("first" if how == "first" else "later")
        return (0 if how == "first" else self._random.randrange(1, 185)), how != "last"

    def _ipv4(self) -> _Draft:
        draw = self._random
        draft = _Draft(IPV4, version=4)
        proto, segment = self._segment(4)
        offset, more = self._fragment(draft)
        if offset:
            segment = draw.randbytes(draw.randrange(8, 64))
        else:
            segment = self._cut(draft, proto, segment)
        options = b""
        if draw.random() < 0.1:
            draft.kind.add("options")
            options = b"\x01" * (4 * draw.randrange(1, 11))
        size = 20 + len(options)
        fragment = offset | (0x2000 if more else draw.choice((0, 0x4000)) if not offset else 0)
        tos = draw.choice(DSCPS) << 2 | draw.randrange(4)
        head = struct.pack("!BBHHH", 0x40 | size // 4, tos, size + len(segment), 7, fragment)
        head += struct.pack("!BBH", draw.choice(TTLS), proto, 0)
        head += draw.choice(V4) + draw.choice(V4) + options
        head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
        draft.body = head + segment
        return draft

    def _ipv6(self) -> _Draft:
        draw = self._random
        draft = _Draft(IPV6, version=6)
        proto, segment = self._segment(6)
        offset, more = self._fragment(draft)
        chain: list[tuple[int, bytes]] = []  # type of a header, its bytes but for the next one's
        if draw.random() < 0.2:
            draft.kind.add("extensions")
            words = draw.randrange(3)
            chain.append((draw.choice((0, 60, 43)), bytes([words]) + bytes(6 + 8 * words)))
        if offset or more:
            chain.append((44, b"\0" + struct.pack("!HI", offset << 3 | more, 7)))
        if offset:
            segment = draw.randbytes(draw.randrange(8, 64))
        else:
            segment = self._cut(draft, proto, segment)
        kinds = [kind for kind, _ in chain] + [proto]
        payload = b"".join(
            bytes([after]) + rest for (_, rest), after in zip(chain, kinds[1:], strict=True)
        )
        payload += segment
        traffic = draw.choice(DSCPS) << 2 | draw.randrange(4)
        head = struct.pack("!IHBB", 6 << 28 | traffic << 20, len(payload), kinds[0], 64)
        head = head[:7] + bytes([draw.choice(TTLS)])
        draft.body = head + draw.choice(V6) + draw.choice(V6) + payload
        return draft

    def _arp(self) -> _Draft:
        draw = self._random
        body = struct.pack("!HHBBH", 1, IPV4, 6, 4, draw.choice((1, 2)))
        body += draw.choice(SOURCES) + draw.choice(V4)
        body += draw.choice([bytes(6), *SOURCES]) + draw.choice(V4)
        return _Draft(ARP, body + bytes(draw.choice((0, 18))))

    def _other(self) -> _Draft:
        """Unknown protocols and 802.3 lengths, some of them as short as a frame can be."""
        draw = self._random
        ethertype = draw.choice((0x88B5, 0x1234, 0x0026))
        body = bytes([0x45 if draw.random() < 0.1 else 0]) + draw.randbytes(draw.choice((0, 5, 45)))
        return _Draft(ethertype, body[: draw.choice((0, 1, 46))], kind={"other"})

    def _disguised(self) -> _Draft:
        """All of an IPv4 packet behind another ethertype."""
        draft = self._ipv4()
        draft.version = 0
        draft.ethertype = self._random.choice((0x88B5, 0x1234))
        draft.kind = {"disguised"}
        return draft

    def _broken(self) -> _Draft:
        """A header that contradicts itself, or of which only the beginning came."""
        draw = self._random
        draft = draw.choice((self._ipv4, self._ipv6))()
        body = bytearray(draft.body)
        how = draw.randrange(4)
        if how == 0:
            body[0] = draw.choice((5, 7, 0)) << 4 | (body[0] & 15)
        elif how == 1 and draft.version == 4:
            body[0] = 0x40 | draw.randrange(5)
        elif how == 2:
            at = 2 if draft.version == 4 else 4
            body[at : at + 2] = struct.pack("!H", len(body) + draw.randrange(1, 999))
        else:
            del body[draw.randrange(20 if draft.version == 4 else 40) :]
        return _Draft(draft.ethertype, bytes(body), kind={"broken"})
