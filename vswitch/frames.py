"""Frames that need not exist: described by fields, built to bytes with the right checksums. Pure.

What is not said is filled in: a TCP SYN, a UDP datagram or an echo request between two stations,
padded to the 60 bytes that Ethernet wants.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from vswitch.kinds.resource import Input

FRAME_BYTES_MAX = 65_554
FRAME_BYTES_MIN = 60
PAYLOAD_BYTES_MAX = 65_000
PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51} | {
    "icmpv6": 58,
    "ospf": 89,
    "vrrp": 112,
    "sctp": 132,
}
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
_FLAG = f"({'|'.join(TCP_FLAGS)})"
_MAC = r"^[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}$"
_PROTOCOL = rf"^({'|'.join(PROTOCOLS)})$"
AnyAddress = IPv4Address | IPv6Address
_SRC: dict[int, AnyAddress] = {4: IPv4Address("192.0.2.1"), 6: IPv6Address("2001:db8::1")}
_DST: dict[int, AnyAddress] = {4: IPv4Address("192.0.2.2"), 6: IPv6Address("2001:db8::2")}

Mac = Annotated[str, StringConstraints(pattern=_MAC)]
Address = Annotated[str, StringConstraints(pattern=r"^[0-9A-Fa-f.:]{2,45}$")]
Byte = Annotated[int, Field(ge=0, le=255)]
Word = Annotated[int, Field(ge=0, le=65_535)]


class FrameEth(Input):
    src: Mac = "02:00:00:00:00:01"
    dst: Mac | None = Field(
        None, description="02:00:00:00:00:02; of an IP group the address that belongs to it."
    )
    type: Word | None = Field(None, description="Of what is neither `ip` nor `arp`.")


class FrameVlan(Input):
    vid: int = Field(0, ge=0, le=4095, description="0: the tag has a priority only.")
    pcp: int = Field(0, ge=0, le=7)


class FrameArp(Input):
    op: Word = 1
    spa: Address = "192.0.2.1"
    tpa: Address = "192.0.2.2"
    sha: Mac | None = Field(None, description="eth.src when nothing is said.")
    tha: Mac = "00:00:00:00:00:00"


class FrameIp(Input):
    src: Address | None = None
    dst: Address | None = None
    proto: Annotated[str, StringConstraints(pattern=_PROTOCOL)] | Byte | None = Field(
        None, description="A name or a number; what `l4` or `icmp` make it when nothing is said."
    )
    ttl: Byte = 64
    dscp: int = Field(0, ge=0, le=63)
    frag: Literal["none", "first", "later"] = "none"


class FrameL4(Input):
    """Of TCP and UDP."""

    sport: Word = 49_152
    dport: Word = 80
    tcp_flags: Annotated[str, StringConstraints(pattern=rf"^({_FLAG}(,{_FLAG})*)?$")] = Field(
        "syn", description="Of TCP: names with commas.", examples=["syn,ack"]
    )


class FrameIcmp(Input):
    """Of ICMP and ICMPv6."""

    type: Byte | None = Field(None, description="An echo request when nothing is said.")
    code: Byte = 0


class FrameFields(Input):
    """A frame by its fields."""

    eth: FrameEth = Field(default_factory=FrameEth)
    vlan: FrameVlan | None = Field(None, description="A tag; without it the frame has none.")
    arp: FrameArp | None = None
    ip: FrameIp | None = None
    l4: FrameL4 | None = None
    icmp: FrameIcmp | None = None
    payload_bytes: int = Field(0, ge=0, le=PAYLOAD_BYTES_MAX, description="Zeros behind all that.")


class FrameError(ValueError):
    """The fields contradict each other; ``pointer`` is relative to the frame."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


def build(fields: FrameFields) -> bytes:
    """The frame's bytes; FrameError when its fields make no frame."""
    _check(fields)
    kind, dst, packet = _payload(fields)
    header = _mac(fields.eth.dst or dst) + _mac(fields.eth.src)
    if fields.vlan is not None:
        header += struct.pack("!HH", 0x8100, fields.vlan.pcp << 13 | fields.vlan.vid)
    frame = header + struct.pack("!H", kind) + packet
    return frame.ljust(FRAME_BYTES_MIN, b"\0")


def _check(fields: FrameFields) -> None:
    if fields.arp is not None and (fields.ip or fields.l4 or fields.icmp):
        raise FrameError("/arp", "a frame is ARP or IP")
    if fields.l4 is not None and fields.icmp is not None:
        raise FrameError("/icmp", "a packet has ports or an ICMP type")
    if fields.eth.type is not None and (fields.arp or fields.ip or fields.l4 or fields.icmp):
        raise FrameError("/eth/type", "`ip` and `arp` have their own EtherType")


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _payload(fields: FrameFields) -> tuple[int, str, bytes]:
    """EtherType, the destination that goes with it, and what follows."""
    station = "02:00:00:00:00:02"
    if fields.arp is not None:
        return 0x0806, "ff:ff:ff:ff:ff:ff", _arp(fields.arp, fields.eth.src)
    if fields.ip is None and fields.l4 is None and fields.icmp is None:
        kind = 0x88B5 if fields.eth.type is None else fields.eth.type
        return kind, station, bytes(fields.payload_bytes)
    ip = fields.ip or FrameIp()
    src, dst = _ends(ip)
    proto = _proto(ip, fields, src.version)
    body = _body(fields, proto, src, dst)
    if dst.is_multicast:
        low = dst.packed[-4:] if dst.version == 6 else bytes([1, 0, 0x5E, dst.packed[1] & 0x7F])
        raw = b"\x33\x33" + low if dst.version == 6 else low + dst.packed[2:]
        station = raw.hex(":")
    if isinstance(src, IPv4Address):
        return 0x0800, station, _ipv4(ip, proto, src, dst, body)
    return 0x86DD, station, _ipv6(ip, proto, src, dst, body)


def _arp(arp: FrameArp, src: str) -> bytes:
    spa, tpa = _address(arp.spa, "/arp/spa"), _address(arp.tpa, "/arp/tpa")
    for pointer, address in (("/arp/spa", spa), ("/arp/tpa", tpa)):
        if address.version != 4:
            raise FrameError(pointer, "ARP is about IPv4 addresses")
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, arp.op)
    return head + _mac(arp.sha or src) + spa.packed + _mac(arp.tha) + tpa.packed


def _address(text: str, pointer: str) -> AnyAddress:
    try:
        return ip_address(text)
    except ValueError as error:
        raise FrameError(pointer, f"{text!r} is no IP address") from error


def _ends(ip: FrameIp) -> tuple[AnyAddress, AnyAddress]:
    src = None if ip.src is None else _address(ip.src, "/ip/src")
    dst = None if ip.dst is None else _address(ip.dst, "/ip/dst")
    known = src or dst
    version = known.version if known else 6 if ip.proto in ("icmpv6", 58) else 4
    src, dst = src or _SRC[version], dst or _DST[version]
    if src.version != dst.version:
        raise FrameError("/ip/dst", "source and destination are of different IP versions")
    return src, dst


def _proto(ip: FrameIp, fields: FrameFields, version: int) -> int:
    """The protocol that is said, or that the other fields mean."""
    echo = PROTOCOLS["icmp" if version == 4 else "icmpv6"]
    if ip.proto is None:
        return echo if fields.icmp is not None else PROTOCOLS["tcp"]
    number = PROTOCOLS[ip.proto] if isinstance(ip.proto, str) else ip.proto
    if fields.l4 is not None and number not in (6, 17):
        raise FrameError("/l4", "only TCP and UDP have ports")
    if fields.icmp is not None and number != echo:
        raise FrameError("/icmp", f"IPv{version} has ICMP as protocol {echo}")
    return number


def _body(fields: FrameFields, proto: int, src: AnyAddress, dst: AnyAddress) -> bytes:
    """Everything behind the IP header. The checksum is that of the packet when it is whole."""
    payload = bytes(fields.payload_bytes)
    if fields.ip is not None and fields.ip.frag == "later":
        return payload
    l4 = fields.l4 or FrameL4()
    if proto == PROTOCOLS["tcp"]:
        flags = sum(1 << TCP_FLAGS.index(name) for name in l4.tcp_flags.split(",") if name)
        head = struct.pack("!HHIIBBHHH", l4.sport, l4.dport, 1, 0, 5 << 4, flags, 65_535, 0, 0)
        return _summed(head + payload, 16, proto, src, dst)
    if proto == PROTOCOLS["udp"]:
        head = struct.pack("!HHHH", l4.sport, l4.dport, 8 + len(payload), 0)
        return _summed(head + payload, 6, proto, src, dst)
    if proto == PROTOCOLS["icmp" if src.version == 4 else "icmpv6"]:
        icmp = fields.icmp or FrameIcmp()
        kind = icmp.type if icmp.type is not None else 8 if src.version == 4 else 128
        head = struct.pack("!BBHHH", kind, icmp.code, 0, 1, 1)
        return _summed(head + payload, 2, proto, src, dst)
    return payload


def _summed(body: bytes, at: int, proto: int, src: AnyAddress, dst: AnyAddress) -> bytes:
    """With its checksum at offset ``at``; over the pseudo-header too, but for ICMP of IPv4."""
    pseudo = b""
    if proto != PROTOCOLS["icmp"]:
        pseudo = src.packed + dst.packed + struct.pack("!IBBBB", len(body), 0, 0, 0, proto)
    found = _checksum(pseudo + body)
    if proto == PROTOCOLS["udp"] and not found:
        found = 0xFFFF
    return body[:at] + struct.pack("!H", found) + body[at + 2 :]


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _ipv4(ip: FrameIp, proto: int, src: AnyAddress, dst: AnyAddress, body: bytes) -> bytes:
    fragment = {"none": 0x4000, "first": 0x2000, "later": 185}[ip.frag]
    length = 20 + len(body)
    head = struct.pack("!BBHHHBBH", 0x45, ip.dscp << 2, length, 1, fragment, ip.ttl, proto, 0) + (
        src.packed + dst.packed
    )
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def _ipv6(ip: FrameIp, proto: int, src: AnyAddress, dst: AnyAddress, body: bytes) -> bytes:
    kind = proto
    if ip.frag != "none":
        offset = {"first": 1, "later": 185 << 3}[ip.frag]
        body, kind = struct.pack("!BBHI", proto, 0, offset, 1) + body, 44
    head = struct.pack("!IHBB", 6 << 28 | ip.dscp << 22, len(body), kind, ip.ttl)
    return head + src.packed + dst.packed + body
