"""What a frame's headers say: a model of parse.c that slices bytes."""

from __future__ import annotations

from dataclasses import dataclass

L3, L4, FRAGMENT, LATER, BAD, TAGGED, IP, PORTS = (1 << bit for bit in range(8))
EXTENSIONS = {0, 43, 44, 51, 60, 135, 139, 140}  # IANA: IPv6 extension header types that chain
EXTENSIONS_MAX = 8


class EndError(Exception):
    """The bytes end, or contradict themselves: what was read so far stands."""


@dataclass
class Key:
    """struct flow_key; addresses are padded on the left."""

    eth_dst: bytes = bytes(6)
    eth_src: bytes = bytes(6)
    eth_type: int = 0
    vlan_pcp: int = 0
    ip_version: int = 0
    ip_src: bytes = bytes(16)
    ip_dst: bytes = bytes(16)
    ip_proto: int = 0
    ip_tos: int = 0
    ip_ttl: int = 0
    layers: int = 0
    l4_src: int = 0
    l4_dst: int = 0
    tcp_flags: int = 0


def take(data: bytes, count: int) -> tuple[bytes, bytes]:
    if len(data) < count:
        raise EndError
    return data[:count], data[count:]


def word(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def model_tags(frame: bytes) -> tuple[list[int], int, bytes] | None:
    """TCIs of at most two tags, the EtherType behind them, the rest."""
    tcis: list[int] = []
    at = 12
    while True:
        if len(frame) < at + 2:
            return None
        kind = word(frame, at)
        if kind not in (0x8100, 0x88A8) or len(tcis) == 2:
            return tcis, kind, frame[at + 2 :]
        if len(frame) < at + 6:
            return None
        tcis.append(word(frame, at + 2))
        at += 4


def model(frame: bytes) -> Key:
    """What parse_flow says about a frame without offload state."""
    key = Key()
    read = model_tags(frame)
    if read is None:
        key.layers = BAD
        return key
    tcis, key.eth_type, rest = read
    key.eth_dst, key.eth_src = frame[:6], frame[6:12]
    if tcis:
        key.vlan_pcp = tcis[0] >> 13
        key.layers |= TAGGED
    layers = {0x0800: model_ipv4, 0x86DD: model_ipv6, 0x0806: model_arp}
    try:
        if key.eth_type in layers:
            layers[key.eth_type](key, rest)
    except EndError:
        key.layers |= BAD
    return key


def model_arp(key: Key, data: bytes) -> None:
    head, _ = take(data, 28)
    if head[:6] != b"\x00\x01\x08\x00\x06\x04":
        raise EndError
    key.ip_proto = head[7]
    key.ip_src = head[8:14] + bytes(6) + head[14:18]
    key.ip_dst = head[18:24] + bytes(6) + head[24:28]
    key.layers |= L3


def model_ipv4(key: Key, data: bytes) -> None:
    head, _ = take(data, 20)
    length, total = 4 * (head[0] & 15), word(head, 2)
    if head[0] >> 4 != 4 or length < 20:
        raise EndError
    key.ip_tos, key.ip_ttl, key.ip_proto = head[1], head[8], head[9]
    key.ip_src, key.ip_dst = bytes(12) + head[12:16], bytes(12) + head[16:20]
    if total < length:
        raise EndError
    packet, _ = take(data, total)
    key.ip_version = 4
    key.layers |= L3 | IP
    more, offset = word(head, 6) & 0x2000, word(head, 6) & 0x1FFF
    key.layers |= (FRAGMENT if more or offset else 0) | (LATER if offset else 0)
    model_l4(key, packet[length:])


def model_ipv6(key: Key, data: bytes) -> None:
    head, rest = take(data, 40)
    if head[0] >> 4 != 6:
        raise EndError
    key.ip_tos = word(head, 0) >> 4 & 0xFF
    key.ip_proto, key.ip_ttl = head[6], head[7]
    key.ip_src, key.ip_dst = head[8:24], head[24:40]
    rest, _ = take(rest, word(head, 4))
    key.ip_version = 6
    key.layers |= L3 | IP
    followed = 0
    while key.ip_proto in EXTENSIONS and not key.layers & LATER:
        if followed == EXTENSIONS_MAX:
            raise EndError
        head, _ = take(rest, 8)
        length = 8 * (head[1] + 1)
        if key.ip_proto == 51:  # RFC 4302: in units of 4 bytes, minus 2
            length = 4 * (head[1] + 2)
        if key.ip_proto == 44:  # RFC 8200, section 4.5
            length = 8
            offset, more = word(head, 2) >> 3, word(head, 2) & 1
            key.layers |= (FRAGMENT if more or offset else 0) | (LATER if offset else 0)
        key.ip_proto = head[0]
        _, rest = take(rest, length)
        followed += 1
    model_l4(key, rest)


def model_l4(key: Key, data: bytes) -> None:
    if key.layers & LATER:
        return
    if key.ip_proto in (6, 17):
        head, _ = take(data, 20 if key.ip_proto == 6 else 8)
        key.l4_src, key.l4_dst = word(head, 0), word(head, 2)
        key.layers |= L4 | PORTS
        if key.ip_proto == 6:
            key.tcp_flags = head[13]
            if head[12] >> 4 < 5:
                raise EndError
    elif (key.ip_proto, key.ip_version) in ((1, 4), (58, 6)):
        head, _ = take(data, 4)
        key.l4_src, key.l4_dst = head[0], head[1]
        key.layers |= L4
