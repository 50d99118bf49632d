"""The codecs of tunnel ports against scapy and a model, and overlay_inner against scapy's stack."""

from __future__ import annotations

import struct

from hypothesis import assume, event, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.support.core import core
from tests.support.overlay import overlay_datagram

VNIS = st.integers(0, 0xFFFFFF)
HEADER_BYTES = 8
CSUM_NEEDED, TCPV4, TCPV6 = 1, 1, 4


def decode(name: str, datagram: bytes) -> int | None:
    """The VNI, or None: refused."""
    ffi, lib = core()
    vni = ffi.new("uint32_t *")
    exact = ffi.new("uint8_t[]", datagram or b"\0")
    accepted = getattr(lib, f"{name}_decode")(exact, len(datagram), vni)
    return int(vni[0]) if accepted else None


def encode(name: str, *numbers: int) -> bytes:
    ffi, lib = core()
    header = ffi.new("uint8_t[]", HEADER_BYTES)
    getattr(lib, f"{name}_encode")(header, *numbers)
    return bytes(header)


@given(vni=VNIS, frame=st.binary(max_size=100))
def test_scapy_reads_our_vxlan_and_we_read_scapys(vni: int, frame: bytes) -> None:
    ours = VXLAN(encode("vxlan", vni) + frame)
    assert (ours.vni, ours.flags.value, ours.reserved2) == (vni, 0x08, 0)
    theirs = bytes(VXLAN(vni=vni, flags="Instance") / Raw(frame))
    assert theirs == encode("vxlan", vni) + frame
    assert decode("vxlan", theirs) == vni


@given(datagram=st.binary(max_size=16))
def test_vxlan_is_what_has_the_flag(datagram: bytes) -> None:
    """RFC 7348, section 5; reserved bits are ignored."""
    if len(datagram) >= HEADER_BYTES and datagram[0] & 8:
        event("accepted")
        assert decode("vxlan", datagram) == int.from_bytes(datagram[4:7], "big")
    else:
        assert decode("vxlan", datagram) is None


@given(vni=st.integers(1, 0xFFFFFF), frame=st.binary(max_size=100))
def test_our_encapsulation_is_as_documented(vni: int, frame: bytes) -> None:
    datagram = encode("overlay", vni, len(frame)) + frame
    assert datagram == overlay_datagram(frame, vni)
    assert decode("overlay", datagram) == vni


@given(
    vni=st.integers(1, 0xFFFFFF),
    frame=st.binary(max_size=40),
    bit=st.integers(0, 8 * HEADER_BYTES - 1),
)
def test_no_bit_of_our_header_may_change_unseen(vni: int, frame: bytes, bit: int) -> None:
    """It is refused, or the VNI is another one."""
    datagram = bytearray(overlay_datagram(frame, vni))
    datagram[bit // 8] ^= 0x80 >> bit % 8
    found = decode("overlay", bytes(datagram))
    if 32 <= bit < 56:
        wanted = int.from_bytes(datagram[4:7], "big")
        assert found == (wanted or None)
    else:
        assert found is None


@given(vni=st.integers(1, 0xFFFFFF), frame=st.binary(max_size=40), change=st.integers(-40, 40))
def test_our_frames_end_where_the_header_says(vni: int, frame: bytes, change: int) -> None:
    assume(change)
    datagram = overlay_datagram(frame, vni)
    other = datagram + bytes(change) if change > 0 else datagram[:change]
    assert decode("overlay", other) is None


# --- unfinished frames inside --------------------------------------------------------------------


def inner(frame: bytes, mtu: int) -> list[int]:
    ffi, lib = core()
    said = ffi.new("uint16_t[5]")
    lib.shim_inner(ffi.new("uint8_t[]", frame or b"\0"), len(frame), mtu, said)
    return list(said)


@st.composite
def packets(draw: st.DrawFn) -> tuple[Packet, int, type[Packet]]:
    """A packet of scapy's, the offset of its transport header, and what that is."""
    layers: Packet = Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    offset = 14
    for _ in range(draw(st.integers(0, 2))):
        layers /= Dot1Q(vlan=draw(st.integers(0, 4094)))
        offset += 4
    if draw(st.booleans()):
        layers /= IPv6(src="2001:db8::1", dst=draw(st.sampled_from(("2001:db8::2", "::1"))))
        offset += 40
    else:
        options = draw(st.sampled_from((b"", b"\x01" * 8)))
        layers /= IP(src="10.0.0.1", dst="192.0.2.200", options=options)
        offset += 20 + len(options)
    kind = draw(st.sampled_from((TCP, UDP)))
    return layers / kind() / Raw(draw(st.binary(max_size=3000))), offset, kind


def unfinished(packet: Packet, offset: int, kind: type[Packet]) -> bytes:
    """As a stack hands it to a device: the checksum field holds the pseudo-header's sum."""
    frame = bytearray(bytes(packet))
    transport = len(frame) - offset
    addresses = frame[offset - 32 : offset] if IPv6 in packet else None
    if addresses is None:
        ip = 14 + 4 * sum(isinstance(packet.getlayer(n), Dot1Q) for n in range(4))
        addresses = frame[ip + 12 : ip + 20]
    words = struct.unpack(f"!{len(addresses) // 2}H", addresses)
    total = sum(words) + (6 if kind is TCP else 17) + transport
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    field = offset + (16 if kind is TCP else 6)
    frame[field : field + 2] = total.to_bytes(2, "big")
    return bytes(frame)


@given(drawn=packets(), mtu=st.sampled_from((0, 40, 1450, 9000)))
def test_unfinished_checksums_are_found(drawn: tuple[Packet, int, type[Packet]], mtu: int) -> None:
    packet, offset, kind = drawn
    frame = unfinished(packet, offset, kind)
    flags, gso_type, start, field, size = inner(frame, mtu)
    assert (flags, start, field) == (CSUM_NEEDED, offset, 16 if kind is TCP else 6)
    ip_bytes = len(frame) - 14 - 4 * sum(isinstance(packet.getlayer(n), Dot1Q) for n in range(4))
    heads = ip_bytes - (len(frame) - offset) + 20
    if kind is TCP and heads < mtu < ip_bytes:
        event("cut")
        assert (gso_type, size) == (TCPV6 if IPv6 in packet else TCPV4, mtu - heads)
    else:
        assert (gso_type, size) == (0, 0)


@given(drawn=packets(), cut=st.integers(0, 80))
def test_finished_frames_are_left_alone(drawn: tuple[Packet, int, type[Packet]], cut: int) -> None:
    """As they are, and cut short anywhere."""
    packet, offset, kind = drawn
    frame = bytes(packet)
    assume(frame != unfinished(packet, offset, kind))
    assert inner(frame, 1450) == [0] * 5
    assert inner(frame[:cut], 1450) == [0] * 5


@given(frame=st.binary(max_size=200))
def test_anything_may_be_inside(frame: bytes) -> None:
    inner(frame, 1450)
