"""The packet filter of netmap's sample firewall, as a model: its rules, its verdicts, and where a
verdict rests on bytes that are not what the sample takes them for.

The sample casts a frame's bytes to structs and looks neither at the ethertype nor at any length.
`verdict` does the same over a buffer whose end holds what was there before; `sound` is the same
filter over packets that are what they seem, which is what rules are to do.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from typing import Any

from tests.support.packets import IPV4, TCP, UDP

IN, OUT = 0, 1  # from the interface to the host, from the host to the interface
BUFFER_BYTES = 2048


@dataclass(frozen=True)
class FilterRule:
    """``proto``, ``srcport``, ``dstport``: -1 is any. Addresses and masks as numbers."""

    dir: int
    proto: int = -1
    srcaddr: int = 0
    srcmask: int = 0
    dstaddr: int = 0
    dstmask: int = 0
    srcport: int = -1
    dstport: int = -1

    def json(self) -> dict[str, Any]:
        """As it is imported: addresses in dotted form."""
        fields = asdict(self)
        return {
            k: str(IPv4Address(v)) if k[3:] in ("addr", "mask") else v for k, v in fields.items()
        }


# Those that the sample comes with. The second one says nothing of ports, so they are 0 in C; they
# are not looked at for ICMP.
SAMPLE = (
    FilterRule(IN, TCP, 0x0A000000, 0xFF000000, 0, 0, -1, 80),
    FilterRule(OUT, 1, 0x0A000000, 0xFFFF0000, 0, 0, 0, 0),
)


@dataclass(frozen=True)
class Packet:
    """What a filter looks at; ports of TCP and UDP only."""

    proto: int
    src: int
    dst: int
    sport: int | None
    dport: int | None


def blocks(rules: Sequence[FilterRule], direction: int, packet: Packet) -> bool:
    return any(_matches(rule, direction, packet) for rule in rules)


def _matches(rule: FilterRule, direction: int, packet: Packet) -> bool:
    if rule.dir != direction or rule.proto not in (-1, packet.proto):
        return False
    if (rule.srcaddr ^ packet.src) & rule.srcmask:
        return False
    if (rule.dstaddr ^ packet.dst) & rule.dstmask:
        return False
    if packet.proto not in (TCP, UDP):
        return True
    return rule.srcport in (-1, packet.sport) and rule.dstport in (-1, packet.dport)


def verdict(rules: Sequence[FilterRule], direction: int, frame: bytes, stale: bytes) -> bool:
    """Does the sample block the frame? ``stale``: what its buffer held before, BUFFER_BYTES."""
    buffer = frame + stale[len(frame) :]
    if buffer[14] >> 4 != 4:
        return False
    src, dst = struct.unpack("!II", buffer[26:34])
    at = 14 + 4 * (buffer[14] & 15)
    sport, dport = struct.unpack("!HH", buffer[at : at + 4])
    return blocks(rules, direction, Packet(buffer[23], src, dst, sport, dport))


def sound(rules: Sequence[FilterRule], direction: int, frame: bytes) -> bool:
    """The same, of what a frame really is: IPv4 behind up to two tags, whole headers only. TCP and
    UDP without ports (later fragments, headers cut off) match rules about no port."""
    packet = _read(frame)
    return packet is not None and blocks(rules, direction, packet)


def _read(frame: bytes) -> Packet | None:
    at = 12
    for _ in range(2):
        if frame[at : at + 2] in (b"\x81\x00", b"\x88\xa8"):
            at += 4
    if frame[at : at + 2] != struct.pack("!H", IPV4):
        return None
    packet = frame[at + 2 :]
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    size, total, fragment = 4 * (packet[0] & 15), *struct.unpack("!2xH2xH", packet[:8])
    if size < 20 or not size <= total <= len(packet):
        return None
    src, dst = struct.unpack("!II", packet[12:20])
    proto, rest = packet[9], packet[size:total]
    need = {TCP: 20, UDP: 8}.get(proto, 0)
    if not need or fragment & 0x1FFF or len(rest) < need:
        return Packet(proto, src, dst, None, None)
    return Packet(proto, src, dst, *struct.unpack("!HH", rest[:4]))
