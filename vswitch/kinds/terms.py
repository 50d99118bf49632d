"""The texts in a match and the bits they mean: addresses with masks, ranges, flags, numbers.

Functions raise ValueError with a sentence for the user. Bytes are in network order. The annotated
types are the fields of a Spec: they take a text apart to see that it makes sense, and keep it in
one spelling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from socket import AF_INET, inet_ntoa, inet_pton
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from vswitch.values import NAME_PATTERN, VID_MAX, VLAN_RANGE_PATTERN, parse_range

Mask = tuple[bytes, bytes]
"""(value, mask); value & ~mask is 0."""
Range = tuple[int, int]

GROUP_PREFIX = "group:"
_GROUP = rf"{GROUP_PREFIX}{NAME_PATTERN[1:-1]}"
_HEX_MAC = r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2}){5}"
_ADDRESS = r"[0-9A-Fa-f.:]{2,45}"
_PORTS = r"[0-9]{1,5}(-[0-9]{1,5})?"
IP_PATTERN = rf"^({_GROUP}|{_ADDRESS}(/[0-9A-Fa-f.:]{{1,45}})?)$"
IP_MEMBER_PATTERN = rf"^{_ADDRESS}(/[0-9A-Fa-f.:]{{1,45}})?$"
MAC_PATTERN = rf"^({_GROUP}|{_HEX_MAC}(/{_HEX_MAC})?)$"
MAC_ONLY_PATTERN = rf"^{_HEX_MAC}$"
PORT_PATTERN = rf"^({_GROUP}|{_PORTS})$"
_PORT_RANGE = re.compile(_PORTS)
FLAGS_PATTERN = r"^(!?[a-z]{3}(,!?[a-z]{3}){0,7}|0x[0-9A-Fa-f]{1,2}/0x[0-9A-Fa-f]{1,2})$"
ETH_TYPE_PATTERN = r"^([a-z0-9]{2,8}|0x[0-9A-Fa-f]{1,4})$"
PROTO_PATTERN = r"^([a-z0-9]{1,8}|[0-9]{1,3}-[0-9]{1,3})$"
_NUMBERS = re.compile(r"[0-9]{1,3}(-[0-9]{1,3})?")
ARP_OP_PATTERN = r"^(request|reply|[0-9]{1,3})$"

ETH_TYPES = {
    "ipv4": 0x0800,
    "arp": 0x0806,
    "ipv6": 0x86DD,
    "mpls": 0x8847,
    "pppoe": 0x8864,
    "eapol": 0x888E,
    "lldp": 0x88CC,
    "ptp": 0x88F7,
}
PROTOCOLS = {
    "icmp": 1,
    "igmp": 2,
    "tcp": 6,
    "udp": 17,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "sctp": 132,
}
TCP_FLAGS = {"fin": 1, "syn": 2, "rst": 4, "psh": 8, "ack": 16, "urg": 32, "ece": 64, "cwr": 128}
ARP_OPS = {"request": 1, "reply": 2}


def group_of(text: str) -> str | None:
    """The group's name where the text names one."""
    return text[len(GROUP_PREFIX) :] if text.startswith(GROUP_PREFIX) else None


def ip_mask(text: str) -> Mask:
    """Of an address, ADDRESS/LENGTH or ADDRESS/MASK, 4 or 16 bytes. Bits outside of the mask do
    not count."""
    address, slash, length = text.partition("/")
    value = _ip(address)
    if not slash:
        mask = b"\xff" * len(value)
    elif length.isdecimal():
        bits = 8 * len(value)
        if int(length) > bits:
            raise ValueError(f"a prefix of {address} has 0 to {bits} bits")
        mask = (((1 << bits) - 1) ^ ((1 << (bits - int(length))) - 1)).to_bytes(bits // 8, "big")
    else:
        mask = _ip(length)
        if len(mask) != len(value):
            raise ValueError("address and mask are not of one IP version")
    return _masked(value, mask)


def _ip(text: str) -> bytes:
    with suppress(OSError):
        return inet_pton(AF_INET, text)  # the same IPv4 addresses, and a fifth of the time
    try:
        return ip_address(text).packed
    except ValueError:
        raise ValueError(f"{text or 'nothing'} is no IP address") from None


def ip_text(mask: Mask) -> str:
    """The one spelling: ADDRESS, ADDRESS/LENGTH where the mask is a prefix, else ADDRESS/MASK."""
    value, bits = mask
    kind: Callable[[bytes], str | IPv6Address]
    kind = inet_ntoa if len(value) == 4 else IPv6Address
    number = int.from_bytes(bits, "big")
    length = number.bit_count()
    whole = 8 * len(value)
    if number != ((1 << length) - 1) << (whole - length):
        return f"{kind(value)}/{kind(bits)}"
    return str(kind(value)) if length == whole else f"{kind(value)}/{length}"


def mac_mask(text: str) -> Mask:
    """Of MAC or MAC/MASK: 6 bytes each."""
    address, slash, mask = text.partition("/")
    return _masked(_mac(address), _mac(mask) if slash else b"\xff" * 6)


def _mac(text: str) -> bytes:
    try:
        value = bytes.fromhex(text.replace(":", ""))
    except ValueError:
        value = b""
    if len(value) != 6 or text.count(":") != 5:
        raise ValueError(f"{text or 'nothing'} is no MAC address")
    return value


def mac_text(mask: Mask) -> str:
    value, bits = mask
    return value.hex(":") if bits == b"\xff" * 6 else f"{value.hex(':')}/{bits.hex(':')}"


def _masked(value: bytes, mask: bytes) -> Mask:
    bits = int.from_bytes(value, "big") & int.from_bytes(mask, "big")
    return bits.to_bytes(len(mask), "big"), mask


def port_range(text: str) -> Range:
    """ "80" -> (80, 80), "1000-2000" -> (1000, 2000)."""
    if _PORT_RANGE.fullmatch(text):
        first, last = parse_range(text)
        if first <= last <= 65_535:
            return first, last
    raise ValueError("a port or FIRST-LAST, 0 <= FIRST <= LAST <= 65535")


def merge(ranges: Iterable[Range]) -> tuple[Range, ...]:
    """In order, without overlaps: the same ports are always the same tuple."""
    merged: list[Range] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def tcp_flags(text: str) -> tuple[int, int]:
    """(value, mask) of "syn,!ack" (syn set, ack clear, the rest as it likes) or "0x02/0x12"."""
    if text.startswith("0x"):
        value, _, mask = text.partition("/")
        if int(value, 16) & ~int(mask, 16):
            raise ValueError(f"{value} has bits that {mask} does not look at")
        return int(value, 16), int(mask, 16)
    set_, asked = 0, 0
    for word in text.split(","):
        flag = TCP_FLAGS.get(word.removeprefix("!"))
        if flag is None:
            raise ValueError(f"{word} is no TCP flag; known: {', '.join(TCP_FLAGS)}")
        if asked & flag:
            raise ValueError(f"{word.removeprefix('!')} is named twice")
        asked |= flag
        set_ |= 0 if word.startswith("!") else flag
    return set_, asked


def number_of(text: str, names: dict[str, int], most: int) -> int:
    """A name, a decimal or a hexadecimal number."""
    if text in names:
        return names[text]
    try:
        number = int(text, 0) if text.startswith("0x") else int(text)
    except ValueError:
        raise ValueError(f"{text} is neither a number nor one of {', '.join(names)}") from None
    if not 0 <= number <= most:
        raise ValueError(f"a number here is 0 to {most}")
    return number


def prefixes(first: int, last: int, bits: int) -> Iterator[tuple[int, int]]:
    """(value, mask) of the fewest prefixes that hold first to last and nothing else."""
    whole = (1 << bits) - 1
    while first <= last:
        size = first & -first or 1 << bits
        while size > last - first + 1:
            size >>= 1
        yield first, whole ^ (size - 1)
        first += size


def eth_type(text: str) -> int:
    return number_of(text, ETH_TYPES, 0xFFFF)


def arp_op(text: str) -> int:
    return number_of(text, ARP_OPS, 0xFF)


Protocols = int | str | tuple[str, ...]


def protocols(given: Protocols) -> tuple[Range, ...]:
    """Of a number, a name, or a list of names, numbers and ranges of numbers."""
    texts = (str(given),) if isinstance(given, int | str) else given
    return merge(_protocol_range(text) for text in texts)


def _protocol_range(text: str) -> Range:
    if not _NUMBERS.fullmatch(text):
        number = number_of(text, PROTOCOLS, 255)
        return number, number
    first, last = parse_range(text)
    if not first <= last <= 255:
        raise ValueError("a protocol's number is 0 to 255, a range FIRST-LAST")
    return first, last


def vlan_ids(given: int | tuple[str, ...]) -> tuple[Range, ...]:
    if isinstance(given, int):
        return ((given, given),)
    return merge(parse_range(text) for text in given)


# --- fields of a Spec ---------------------------------------------------------------------------


def _spelled(parse: Callable[[str], Mask], spell: Callable[[Mask], str]) -> Callable[[str], str]:
    def validate(text: str) -> str:
        return text if group_of(text) else spell(parse(text))

    return validate


def _sound(parse: Callable[[str], object]) -> Callable[[str], str]:
    def validate(text: str) -> str:
        if group_of(text) is None:
            parse(text)
        return text

    return validate


def spell_ip(text: str) -> str:
    return ip_text(ip_mask(text))


def spell_mac(text: str) -> str:
    return mac_text(mac_mask(text))


def spell_ports(text: str) -> str:
    port_range(text)
    return text


def _arp_address(text: str) -> str:
    mask = ip_mask(text)
    if len(mask[0]) != 4:
        raise ValueError("ARP speaks of IPv4 addresses")
    return ip_text(mask)


IpTerm = Annotated[
    str,
    StringConstraints(pattern=IP_PATTERN),
    AfterValidator(_spelled(ip_mask, ip_text)),
    Field(
        description="An IPv4 or IPv6 address, ADDRESS/LENGTH, ADDRESS/MASK or group:NAME. Bits "
        "outside of the mask do not count and are read back as 0.",
        examples=["10.0.0.0/8", "10.0.0.1/255.0.255.255", "2001:db8::/32", "group:servers"],
    ),
]
ArpAddressTerm = Annotated[
    str,
    StringConstraints(pattern=IP_PATTERN),
    AfterValidator(lambda text: text if group_of(text) else _arp_address(text)),
    Field(
        description="An IPv4 address, ADDRESS/LENGTH, ADDRESS/MASK or group:NAME.",
        examples=["192.0.2.0/24"],
    ),
]
MacTerm = Annotated[
    str,
    StringConstraints(pattern=MAC_PATTERN),
    AfterValidator(_spelled(mac_mask, mac_text)),
    Field(
        description="A MAC address, MAC/MASK or group:NAME.",
        examples=["02:00:00:00:00:01", "01:00:00:00:00:00/01:00:00:00:00:00"],
    ),
]
PortTerm = Annotated[
    str,
    StringConstraints(pattern=PORT_PATTERN),
    AfterValidator(_sound(port_range)),
    Field(description="A port, FIRST-LAST or group:NAME.", examples=["80", "8000-8080"]),
]
PortTerms = Annotated[
    tuple[PortTerm, ...],
    Field(strict=False, min_length=1, max_length=256, description="One of these has to fit."),
]
TcpFlags = Annotated[
    str,
    StringConstraints(pattern=FLAGS_PATTERN),
    AfterValidator(_sound(tcp_flags)),
    Field(
        description="Flags that are set, and with ! those that are clear: fin syn rst psh ack urg "
        "ece cwr; the others do not matter. Or VALUE/MASK in hexadecimal.",
        examples=["syn,!ack", "0x02/0x12"],
    ),
]
EthType = Annotated[
    str,
    StringConstraints(pattern=ETH_TYPE_PATTERN),
    AfterValidator(_sound(eth_type)),
    Field(
        description=f"Ethertype behind the VLAN tags: {', '.join(ETH_TYPES)} or 0x and a number.",
        examples=["ipv4", "0x88cc"],
    ),
]
ArpOp = Annotated[
    str,
    StringConstraints(pattern=ARP_OP_PATTERN),
    AfterValidator(_sound(arp_op)),
    Field(description="request, reply or a number up to 255.", examples=["request"]),
]


_PROTOCOLS_MAX = 256
_AS_JSON = PlainSerializer(lambda given: list(given) if isinstance(given, tuple) else given)


def _ip_proto(given: Any) -> Protocols:
    wanted: Protocols
    if isinstance(given, list | tuple):
        if not 1 <= len(given) <= _PROTOCOLS_MAX or not all(isinstance(one, str) for one in given):
            raise ValueError(f"a list of protocols holds 1 to {_PROTOCOLS_MAX} texts")
        wanted = tuple(given)
    elif isinstance(given, bool) or not isinstance(given, int | str):
        raise ValueError("a protocol is a name or a number")
    else:
        wanted = given
    protocols(wanted)
    return wanted


IpProto = Annotated[
    int | str | tuple[str, ...],
    PlainValidator(_ip_proto),
    _AS_JSON,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": 255},
                {"type": "string", "pattern": PROTO_PATTERN},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": PROTO_PATTERN},
                    "minItems": 1,
                    "maxItems": _PROTOCOLS_MAX,
                },
            ],
            "description": "The protocol behind IPv6's extension headers: a number, one of "
            f"{', '.join(PROTOCOLS)}, or a list of these and of ranges, as texts.",
            "examples": ["tcp", 6, ["tcp", "udp", "200-255"]],
        }
    ),
]
_VLAN_IDS_MAX = 256
_VLAN_RANGE = re.compile(VLAN_RANGE_PATTERN)


def _vid(given: Any) -> int | tuple[str, ...]:
    if isinstance(given, int) and not isinstance(given, bool):
        if not 0 <= given <= VID_MAX:
            raise ValueError(f"a VLAN id is 0 (none) to {VID_MAX}")
        return given
    if not isinstance(given, list | tuple) or not 1 <= len(given) <= _VLAN_IDS_MAX:
        raise ValueError(f"a VLAN id, or a list of 1 to {_VLAN_IDS_MAX} texts FIRST or FIRST-LAST")
    for text in given:
        if not isinstance(text, str) or not _VLAN_RANGE.fullmatch(text):
            raise ValueError(f"{text!r} is neither VLAN id nor range, as text")
        first, last = parse_range(text)
        if not first <= last <= VID_MAX:
            raise ValueError(f"a range is FIRST-LAST, 1 <= FIRST <= LAST <= {VID_MAX}")
    return tuple(given)


VlanIds = Annotated[
    int | tuple[str, ...],
    PlainValidator(_vid),
    _AS_JSON,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": VID_MAX},
                {
                    "type": "array",
                    "items": {"type": "string", "pattern": VLAN_RANGE_PATTERN},
                    "minItems": 1,
                    "maxItems": _VLAN_IDS_MAX,
                },
            ],
            "description": "The VLAN that the switch assigned; where the bridge filters none, the "
            "first tag's id, 0: none. A number, or a list of FIRST or FIRST-LAST.",
            "examples": [10, ["10", "20-29"]],
        }
    ),
]
