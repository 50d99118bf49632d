"""What offload.c must make of a frame: scapy writes every header anew from the original packet."""

from __future__ import annotations

import struct

from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP, IPOption_NOP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.layers.l2 import Dot1AD, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.support import offload

PSH_FIN, CWR = 0x09, 0x80
FRAGMENTS_MAX = 64


def l4_of(packet: Packet) -> Packet:
    return packet[TCP] if TCP in packet else packet[UDP]


def finished(packet: Packet) -> bytes:
    """The packet with every length and checksum written by scapy."""
    packet = packet.copy()
    for layer in (IP, IPv6, TCP, UDP):
        if layer in packet:
            for name in ("len", "plen", "chksum"):
                if name in packet[layer].fields:
                    delattr(packet[layer], name)
    return bytes(packet)


def unfinished(packet: Packet) -> tuple[bytes, int, int]:
    """The packet as a local stack hands it to a device: the sum of the pseudo-header stands in
    the checksum's field. Also returns csum_start and csum_offset."""
    frame = bytearray(finished(packet))
    l4 = l4_of(packet)
    start = len(frame) - len(l4)
    place = 16 if TCP in packet else 6
    length = len(frame) - start
    number = 6 if TCP in packet else 17
    addresses = bytes(packet[IP])[12:20] if IP in packet else bytes(packet[IPv6])[8:40]
    words = addresses + struct.pack("!II", length, number)
    total = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", frame, start + place, total)
    return bytes(frame), start, place


def model(packet: Packet, mss: int) -> list[bytes]:
    """One packet a segment; RFC 9293 (sequence), 3168 (CWR), 791 and 6864 (identification)."""
    payload = bytes(l4_of(packet).payload)
    pieces = [payload[i : i + mss] for i in range(0, len(payload), mss)] or [b""]
    segments = []
    for i, piece in enumerate(pieces):
        segment = packet.copy()
        l4_of(segment).remove_payload()
        segment = segment / Raw(piece) if piece else segment
        if IP in segment:
            segment[IP].id = (packet[IP].id + i) & 0xFFFF
        if TCP in segment:
            segment[TCP].seq = (packet[TCP].seq + i * mss) & 0xFFFFFFFF
            flags = int(packet[TCP].flags)
            if i:
                flags &= ~CWR
            if i + 1 < len(pieces):
                flags &= ~PSH_FIN
            segment[TCP].flags = flags
        segments.append(finished(segment))
    return segments


@st.composite
def packets(draw: st.DrawFn) -> Packet:
    packet = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    for tag in draw(st.lists(st.sampled_from([Dot1Q, Dot1AD]), max_size=2)):
        packet /= tag(vlan=draw(st.integers(0, 4095)), prio=draw(st.integers(0, 7)))
    if draw(st.booleans()):
        options = [IPOption_NOP()] * draw(st.integers(0, 40))
        packet /= IP(
            src=draw(st.integers(0, 2**32 - 1).map(dotted)),
            dst=draw(st.integers(0, 2**32 - 1).map(dotted)),
            id=draw(st.integers(0, 65535)),
            tos=draw(st.integers(0, 255)),
            ttl=draw(st.integers(0, 255)),
            flags=draw(st.sampled_from(["", "DF"])),
            options=options,
        )
    else:
        packet /= IPv6(src="2001:db8::1", dst="fe80::ffff:2", fl=draw(st.integers(0, 2**20 - 1)))
        for header in draw(
            st.lists(st.sampled_from([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt]), max_size=2)
        ):
            packet /= header(options=[PadN(optdata=bytes(draw(st.integers(0, 20))))])
    payload = draw(st.integers(0, 3000)) if draw(st.booleans()) else draw(st.integers(0, 60000))
    filling = draw(st.binary(min_size=1, max_size=16))
    if draw(st.booleans()):
        packet /= TCP(
            sport=draw(st.integers(0, 65535)),
            dport=draw(st.integers(0, 65535)),
            seq=draw(st.integers(0, 2**32 - 1)),
            flags=draw(st.integers(0, 511)),
            options=draw(
                st.sampled_from([[], [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]])
            ),
        )
    else:
        packet /= UDP(sport=draw(st.integers(0, 65535)), dport=draw(st.integers(0, 65535)))
    return packet / Raw((filling * (payload // len(filling) + 1))[:payload])


def dotted(number: int) -> str:
    return ".".join(str(byte) for byte in number.to_bytes(4))


def gso_type(packet: Packet) -> int:
    if UDP in packet:
        return offload.UDP_L4
    return offload.TCPV4 if IP in packet else offload.TCPV6


@st.composite
def splits(draw: st.DrawFn, length: int) -> list[int]:
    cuts = sorted(draw(st.lists(st.integers(0, length), max_size=FRAGMENTS_MAX - 1)))
    return [b - a for a, b in zip([0, *cuts], [*cuts, length], strict=True)]
