"""Fields of frames and of rules as people read them: names as in :class:`WireTerm`, short texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address, ip_network

from fastpath.native_rules import FRAGMENT, IP, L3, L4, LATER, PORTS, STATES, TAGGED
from fastpath.protocol import WireTerm

PROTOCOLS = {1: "icmp", 2: "igmp", 6: "tcp", 17: "udp", 47: "gre", 50: "esp", 51: "ah"} | {
    58: "icmpv6",
    89: "ospf",
    112: "vrrp",
    132: "sctp",
}
ETHERTYPES = {0x0800: "ipv4", 0x0806: "arp", 0x86DD: "ipv6", 0x88CC: "lldp"}
TCP_FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr")
ALTERNATIVES_SHOWN = 8
NOTHING = "none"

Key = Mapping[str, int | bytes]
"""``struct flow_key`` by member."""


def _number(key: Key, name: str) -> int:
    value = key[name]
    assert isinstance(value, int)
    return value


def _bytes(key: Key, name: str) -> bytes:
    value = key[name]
    assert isinstance(value, bytes)
    return value


def proto(number: int) -> str:
    return PROTOCOLS.get(number, str(number))


def eth_type(number: int) -> str:
    name = ETHERTYPES.get(number)
    return f"{name} (0x{number:04x})" if name else f"0x{number:04x}"


def tcp_flags(bits: int) -> str:
    return ",".join(name for at, name in enumerate(TCP_FLAGS) if bits >> at & 1) or NOTHING


def _fragment(layers: int) -> str:
    if layers & LATER:
        return "later"
    return "first" if layers & FRAGMENT else NOTHING


# --- of a frame ---------------------------------------------------------------------------------


def fields(key: Key, ports: Mapping[int, str]) -> dict[str, str]:
    """What was read of a frame; what it does not have is not there."""
    layers, state = _number(key, "layers"), _number(key, "state")
    found = {
        "in_port": ports.get(_number(key, "in_port"), ""),
        "eth_dst": _bytes(key, "eth_dst").hex(":"),
        "eth_src": _bytes(key, "eth_src").hex(":"),
        "eth_type": eth_type(_number(key, "eth_type")),
        "vlan_tagged": "yes" if layers & TAGGED else "no",
    }
    if key["vid"]:
        found["vlan_vid"] = str(key["vid"])
    if layers & TAGGED:
        found["vlan_pcp"] = str(key["vlan_pcp"])
    if layers & IP:
        found |= _ip(key, layers)
    elif layers & L3:
        found |= _arp(key)
    if state:
        found["state"] = next((name for name, bit in STATES.items() if bit == state), str(state))
    return found


def _ip(key: Key, layers: int) -> dict[str, str]:
    version, number = _number(key, "ip_version"), _number(key, "ip_proto")
    first = 12 if version == 4 else 0
    found = {
        "ip_version": str(version),
        "ip_src": str(ip_address(_bytes(key, "ip_src")[first:])),
        "ip_dst": str(ip_address(_bytes(key, "ip_dst")[first:])),
        "ip_proto": proto(number),
        "ip_dscp": str(_number(key, "ip_tos") >> 2),
        "ip_ttl": str(key["ip_ttl"]),
        "fragment": _fragment(layers),
    }
    if layers & PORTS:
        found |= {"l4_src": str(key["l4_src"]), "l4_dst": str(key["l4_dst"])}
        if number == 6:
            found["tcp_flags"] = tcp_flags(_number(key, "tcp_flags"))
    elif layers & L4:
        kind = "icmp" if version == 4 else "icmpv6"
        found |= {f"{kind}_type": str(key["l4_src"]), f"{kind}_code": str(key["l4_dst"])}
    return found


def _arp(key: Key) -> dict[str, str]:
    src, dst = _bytes(key, "ip_src"), _bytes(key, "ip_dst")
    return {
        "arp_op": str(key["ip_proto"]),
        "arp_sha": src[:6].hex(":"),
        "arp_spa": str(ip_address(src[12:])),
        "arp_tha": dst[:6].hex(":"),
        "arp_tpa": str(ip_address(dst[12:])),
    }


# --- of a rule ----------------------------------------------------------------------------------


def term(wanted: WireTerm) -> str:
    """The alternatives of a term: "80 or 8000-8080", "10.0.0.0/8", "group servers"."""
    texts = [*wanted.words]
    texts += [_masked(wanted.field, value, mask) for value, mask in wanted.masks]
    texts += [str(first) if first == last else f"{first}-{last}" for first, last in wanted.ranges]
    if wanted.group:
        texts.append(f"group {wanted.group}")
    return _either(texts)


def _either(texts: Iterable[str]) -> str:
    listed = list(texts)
    if len(listed) > ALTERNATIVES_SHOWN:
        more = len(listed) - ALTERNATIVES_SHOWN
        return f"{', '.join(listed[:ALTERNATIVES_SHOWN])} or {more} more"
    if len(listed) > 1:
        return f"{', '.join(listed[:-1])} or {listed[-1]}"
    return listed[0] if listed else NOTHING


def _masked(field: str, value: bytes, mask: bytes) -> str:
    """A value under its mask, of the sizes that :class:`WireTerm` tells."""
    if field in ("ip_src", "ip_dst", "arp_spa", "arp_tpa"):
        return prefix(value, mask)
    exact = all(byte == 0xFF for byte in mask)
    if len(value) == 6:
        return value.hex(":") if exact else f"{value.hex(':')}/{mask.hex(':')}"
    number, bits = int.from_bytes(value, "big"), int.from_bytes(mask, "big")
    if field == "tcp_flags":
        return tcp_flags(number) if exact else f"{tcp_flags(number)} of {tcp_flags(bits)}"
    if field == "vlan_tagged":
        return "yes" if number else "no"
    if field == "ip_dscp":
        exact = bits & 0x3F == 0x3F
    elif field == "vlan_vid":
        exact = bits & 0xFFF == 0xFFF
    elif field == "vlan_pcp":
        exact = bits & 7 == 7
    named = {"ip_proto": proto, "eth_type": eth_type}.get(field, str)
    return named(number) if exact else f"0x{number:x}/0x{bits:x}"


def prefix(value: bytes, mask: bytes) -> str:
    """10.0.0.0/8 where the mask is a prefix, 10.0.0.1/255.0.0.255 where not."""
    bits = int.from_bytes(mask, "big")
    size = 8 * len(mask)
    length = bits.bit_count()
    if bits != ((1 << length) - 1) << (size - length):
        return f"{ip_address(value)}/{ip_address(mask)}"
    if length == size:
        return str(ip_address(value))
    return str(ip_network((value, length), strict=False))
