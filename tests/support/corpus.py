"""Generated Ethernet frames for comparing switches: the same seed gives the same frames.

A corpus is a sequence of batches; a batch enters at one port. Learning happens in between, so a
switch under comparison must have handled a batch before the next one begins (Wire.exchange).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

TPID_C = 0x8100
TPID_S = 0x88A8
BROADCAST = b"\xff" * 6
MARK = b"\xd1\xff\xd1"  # in front of the 5-byte serial number at the end of a frame
MARK_BYTES = 8


def tag(tpid: int, vid: int, pcp: int = 0, dei: int = 0) -> bytes:
    return struct.pack("!HH", tpid, pcp << 13 | dei << 12 | vid)


def serial_of(frame: bytes) -> int | None:
    """The number a generated frame carries in its last bytes; short ones carry none."""
    if len(frame) >= 14 + MARK_BYTES and frame[-MARK_BYTES:-5] == MARK:
        return int.from_bytes(frame[-5:], "big")
    return None


@dataclass(frozen=True)
class Sent:
    """A generated frame. ``kind`` is the class of frames it was drawn from."""

    port: int
    kind: str
    data: bytes


@dataclass(frozen=True)
class Batch:
    port: int
    frames: tuple[Sent, ...]


class Corpus:
    """Frames for `ports` ports.

    vids        VLAN ids that tagged frames mostly carry; empty: anything from 1 to 4094
    split       a batch never sends to an address that it also sends from, and whoever sends
                double-tagged frames sends no others. A switch that caches decisions (OVS)
                handles such a batch in one way only.
    """

    def __init__(
        self, seed: int, *, ports: int = 4, vids: Sequence[int] = (), split: bool = False
    ) -> None:
        self._random = random.Random(seed)
        self._ports = ports
        self._vids = tuple(vids)
        self._split = split
        self._serial = 0
        self._macs = [bytes([2, 0, 0x5E, 0, i >> 8, i & 255]) for i in range(64 * ports)]
        self._unknown = [bytes([2, 0, 0xEE, 0, 0, i]) for i in range(64)]
        self._home = [i % ports for i in range(len(self._macs))]
        # What is drawn, and how often.
        self._kinds: list[tuple[int, Callable[[], tuple[str, bytes, bytes, bytes]]]] = [
            (40, self._known),
            (8, self._to_unknown),
            (8, self._broadcast),
            (8, self._multicast),
            (4, self._reserved),
            (5, self._bad_source),
            (2, self._odd_destination),
        ]
        self._tags: list[tuple[int, Callable[[], tuple[str, bytes]]]] = [
            (50 if not vids else 25, lambda: ("", b"")),
            (14 if not vids else 40, self._tagged),
            (5, lambda: ("priority ", tag(TPID_C, 0, self._pcp(), self._bit()))),
            (5, self._qinq),
        ]
        self._sources: list[bytes] = []
        self._targets: list[bytes] = []
        self._doubly = False

    def batches(self, frames: int, batch_frames: int = 256) -> Iterator[Batch]:
        """At least `frames` frames in batches of at most `batch_frames`."""
        done = 0
        while done < frames:
            port = self._random.randrange(self._ports)
            count = self._random.randint(1, batch_frames)
            self._cast(port)
            yield Batch(port, tuple(self._frame(port) for _ in range(count)))
            done += count

    def _cast(self, port: int) -> None:
        """Chooses who sends from this port in the next batch, and who may be addressed."""
        at_port = [i for i, home in enumerate(self._home) if home == port]
        senders = set(self._random.sample(at_port, min(len(at_port), 16)))
        for _ in range(self._random.choice((0, 0, 1, 3))):  # moves
            senders.add(self._random.randrange(len(self._macs)))
        for i in senders:
            self._home[i] = port
        self._sources = [self._macs[i] for i in sorted(senders)]
        self._targets = [
            mac for i, mac in enumerate(self._macs) if not (self._split and i in senders)
        ]

    def _frame(self, port: int) -> Sent:
        draw = self._random
        tag_kind, tags = self._draw(self._tags)()
        # OVS's cached decision for a double-tagged frame covers single-tagged ones of the same
        # addresses: they come from different senders.
        self._doubly = tag_kind == "qinq "
        kind, dst, src, ethertype = self._draw(self._kinds)()
        head = dst + src + tags + ethertype
        if draw.random() < 0.04 and kind not in ("reserved", "bad source"):
            # Too short for a serial number (so only kinds that need none to be told apart); a
            # tagged one may end inside its tags.
            if self._split:
                head, tag_kind = dst + src + ethertype, ""
            length = draw.randint(14, 14 + MARK_BYTES - 1)
            data = (head + draw.randbytes(8))[:length]
            return Sent(port, f"short {tag_kind}{kind}", data)
        length = draw.choice((60, 60, 64, draw.randint(38, 1400), draw.randint(38, 1400), 1500))
        self._serial += 1
        body = draw.randbytes(max(0, length - len(head) - MARK_BYTES))
        data = head + body + MARK + self._serial.to_bytes(5, "big")
        return Sent(port, f"{tag_kind}{kind}", data)

    def _draw(self, table: Sequence[tuple[int, Callable[[], T]]]) -> Callable[[], T]:
        return self._random.choices([row[1] for row in table], [row[0] for row in table])[0]

    def _pcp(self) -> int:
        return self._random.randrange(8)

    def _bit(self) -> int:
        return self._random.randrange(2)

    def _ethertype(self) -> bytes:
        """Known protocols with bodies that are none, unknown ones, and 802.3 lengths."""
        choice = self._random.choice
        value = choice((0x0800, 0x86DD, 0x0806, 0x88B5, 0x1234, 0x0026, 0xFFFF))
        return int(value).to_bytes(2, "big")

    def _source(self) -> bytes:
        if not self._split:
            return self._random.choice(self._sources)
        return self._random.choice(self._sources[:4] if self._doubly else self._sources[4:])

    def _known(self) -> tuple[str, bytes, bytes, bytes]:
        return "unicast", self._random.choice(self._targets), self._source(), self._ethertype()

    def _to_unknown(self) -> tuple[str, bytes, bytes, bytes]:
        target = self._random.choice(self._unknown)
        return "unknown unicast", target, self._source(), self._ethertype()

    def _broadcast(self) -> tuple[str, bytes, bytes, bytes]:
        return "broadcast", BROADCAST, self._source(), self._ethertype()

    def _multicast(self) -> tuple[str, bytes, bytes, bytes]:
        prefix = self._random.choice((b"\x33\x33\x00", b"\x01\x00\x5e", b"\x03\x00\x00"))
        return "multicast", prefix + self._random.randbytes(3), self._source(), self._ethertype()

    def _reserved(self) -> tuple[str, bytes, bytes, bytes]:
        """01:80:c2:00:00:00-0f, and the first address behind them, which is an ordinary one."""
        last = self._random.randrange(17)
        kind = "reserved" if last < 16 else "multicast"
        return kind, b"\x01\x80\xc2\x00\x00" + bytes([last]), self._source(), self._ethertype()

    def _bad_source(self) -> tuple[str, bytes, bytes, bytes]:
        sources = [BROADCAST, b"\x01\x00\x5e\x00\x00\x01", b"\x03\x00\x00\x00\x00\x07"]
        if not self._split:  # OVS learns the zero address, which changes what follows
            sources.append(bytes(6))
        source = self._random.choice(sources)
        target = self._random.choice((BROADCAST, self._random.choice(self._targets)))
        return "bad source", target, source, self._ethertype()

    def _odd_destination(self) -> tuple[str, bytes, bytes, bytes]:
        source = self._source()
        if self._split or self._bit():
            return "to zero", bytes(6), source, self._ethertype()
        return "to itself", source, source, self._ethertype()

    def _vid(self) -> int:
        if self._vids and self._random.random() < 0.9:
            return self._random.choice(self._vids)
        return self._random.randint(1, 4094)

    def _tagged(self) -> tuple[str, bytes]:
        return "tagged ", tag(TPID_C, self._vid(), self._pcp(), self._bit())

    def _qinq(self) -> tuple[str, bytes]:
        outer = tag(self._random.choice((TPID_C, TPID_S)), self._vid(), self._pcp(), self._bit())
        return "qinq ", outer + tag(TPID_C, self._vid(), self._pcp(), self._bit())
