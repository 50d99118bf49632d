"""Small values that the whole control plane speaks in: names, addresses, VLAN ranges, times.

The annotated types carry their limits into OpenAPI; the functions have no side effect but the
clock and the random source of :func:`uuid7` and :func:`now`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

NAME_PATTERN = r"^[A-Za-z][A-Za-z0-9_-]{0,30}$"
# The group bit is clear: a station's address.
MAC_PATTERN = r"^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$"
IFNAME_PATTERN = r"^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,14}$"
TAP_PATTERN = IFNAME_PATTERN + r"|^[A-Za-z0-9_-][A-Za-z0-9_.-]{0,11}%d$"
IDENTIFIER_PATTERN = r"^[A-Za-z0-9_]{1,31}$"
VALE_SWITCH_PATTERN = r"^vale[A-Za-z0-9_]{0,11}$"
VALE_PORT_PATTERN = r"^[A-Za-z0-9_]{1,15}$"
FILE_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}$"
STATION_PATTERN = NAME_PATTERN + r"|^vale[A-Za-z0-9_]{0,11}:[A-Za-z0-9_]{1,15}$"
VLAN_RANGE_PATTERN = r"^[1-9][0-9]{0,3}(-[1-9][0-9]{0,3})?$"
ADDRESS_PATTERN = r"^[0-9A-Fa-f.:]{2,45}$"
ENDPOINT_PATTERN = r"^([0-9.]{7,15}|\[[0-9A-Fa-f.:]{2,45}\]):[1-9][0-9]{3,4}$"
VID_MAX = 4094
UDP_PORT_MIN, UDP_PORT_MAX = 1024, 65_535  # what is below belongs to services of the host

Name = Annotated[
    str,
    StringConstraints(pattern=NAME_PATTERN),
    Field(description="Chosen by the user and never changed; part of the URL.", examples=["br0"]),
]
InterfaceName = Annotated[
    str,
    StringConstraints(pattern=IFNAME_PATTERN),
    Field(description="A network interface of the host: at most 15 bytes.", examples=["eth0"]),
]
TapName = Annotated[
    str,
    StringConstraints(pattern=TAP_PATTERN),
    Field(
        description="The interface's name, or one that ends in %d for the kernel to number.",
        examples=["tap0", "tap%d"],
    ),
]
FileName = Annotated[
    str,
    StringConstraints(pattern=FILE_PATTERN),
    Field(description="A plain file name under the data directory's pcap/.", examples=["in.pcap"]),
]
Identifier = Annotated[
    str,
    StringConstraints(pattern=IDENTIFIER_PATTERN),
    Field(description="Letters, digits and underscores, as netmap names pipes.", examples=["x"]),
]
ValeSwitch = Annotated[
    str,
    StringConstraints(pattern=VALE_SWITCH_PATTERN),
    Field(description="A VALE switch: vale and up to 11 letters, digits, _.", examples=["vale0"]),
]
ValePort = Annotated[
    str,
    StringConstraints(pattern=VALE_PORT_PATTERN),
    Field(description="A port of a VALE switch: at most 15 characters.", examples=["p1"]),
]
StationName = Annotated[
    str,
    StringConstraints(pattern=STATION_PATTERN),
    Field(
        description="A port's name, or netmap's of a port on a switch.", examples=["p1", "vale0:p1"]
    ),
]
Vid = Annotated[int, Field(ge=1, le=VID_MAX, description="A VLAN id.")]
LabelKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_./-]{0,62}$")]
LabelValue = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.:/@+ -]{0,63}$")]
AnalysisKind = Literal["shadowed", "redundant", "contradictory", "never_hit"]
Labels = Annotated[
    dict[LabelKey, LabelValue],
    Field(max_length=32, description="Free words to find objects by: ?label=key=value."),
]
Description = Annotated[str, StringConstraints(max_length=1024), Field(description="Free text.")]


def _vlan_range(text: str) -> str:
    first, last = parse_range(text)
    if not first <= last <= VID_MAX:
        raise ValueError(f"a range is FIRST or FIRST-LAST, 1 <= FIRST <= LAST <= {VID_MAX}")
    return text


def parse_range(text: str) -> tuple[int, int]:
    """ "10" -> (10, 10), "10-20" -> (10, 20)."""
    first, _, last = text.partition("-")
    return int(first), int(last or first)


VlanRange = Annotated[
    str,
    StringConstraints(pattern=VLAN_RANGE_PATTERN),
    AfterValidator(_vlan_range),
    Field(description="VLAN ids: one or FIRST-LAST.", examples=["10-20"]),
]


def _ip_prefix(text: str) -> str:
    try:
        network = ip_network(text)
    except ValueError as error:
        if "host bits" in str(error):
            whole = ip_network(text, strict=False)
            raise ValueError(
                f"a prefix has no bits behind its length: {whole} is the network, "
                f"{text.partition('/')[0]} the one address"
            ) from None
        raise ValueError("neither an IP address nor a prefix") from None
    return str(network.network_address) if network.num_addresses == 1 else str(network)


IpPrefix = Annotated[
    str,
    StringConstraints(max_length=64),
    AfterValidator(_ip_prefix),
    Field(
        description="An IPv4 or IPv6 address, or a prefix.",
        examples=["192.0.2.1", "2001:db8::/64"],
    ),
]


def _address(text: str) -> str:
    try:
        address = ip_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP address") from error
    if (
        address.is_unspecified
        or address.is_multicast
        or (address.is_link_local and address.version == 6)
        or (address.version == 4 and (address.packed[0] == 0 or address.packed[0] >= 224))
        or (address.version == 6 and address.ipv4_mapped is not None)
    ):
        raise ValueError(f"{text} is not the global address of one host")
    return str(address)


def _any_address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no IP address") from error


AnyAddress = Annotated[
    str,
    StringConstraints(max_length=45),
    AfterValidator(_any_address),
    Field(description="An IPv4 or IPv6 address.", examples=["192.0.2.1", "2001:db8::1"]),
]


def parse_endpoint(text: str) -> tuple[str, int]:
    """ "[2001:db8::1]:6081" -> ("2001:db8::1", 6081)."""
    address, _, port = text.rpartition(":")
    return address.strip("[]"), int(port)


def format_endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoint(text: str) -> str:
    address, port = parse_endpoint(text)
    if not UDP_PORT_MIN <= port <= UDP_PORT_MAX:
        raise ValueError(f"a UDP port is {UDP_PORT_MIN} to {UDP_PORT_MAX}")
    return format_endpoint(_address(address), port)


HostAddress = Annotated[
    str,
    StringConstraints(pattern=ADDRESS_PATTERN),
    AfterValidator(_address),
    Field(
        description="An IPv4 or IPv6 address of one host, not a link-local one.",
        examples=["192.0.2.1", "2001:db8::1"],
    ),
]
UdpEndpoint = Annotated[
    str,
    StringConstraints(pattern=ENDPOINT_PATTERN),
    AfterValidator(_endpoint),
    Field(
        description="An IPv4 or IPv6 address of one host and a UDP port from 1024 on.",
        examples=["192.0.2.1:6081", "[2001:db8::1]:6081"],
    ),
]


def merge_ranges(texts: Iterable[str]) -> tuple[tuple[int, int], ...]:
    """Ranges in order, without overlaps: the same set of VLANs is always the same tuple."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(parse_range(text) for text in texts):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def now() -> datetime:
    return datetime.now(UTC)


def uuid7() -> str:
    """RFC 9562 section 5.7: 48 bits of milliseconds, then random ones; sorts by time."""
    millis = time.time_ns() // 1_000_000
    value = (millis & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def merge_patch(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Merge Patch, RFC 7396, for objects.

    One exception keeps tagged unions whole: where ``type`` of a member changes, the member is
    replaced, because what the old type had means nothing to the new one.
    """
    result = dict(target)
    for key, value in patch.items():
        old = result.get(key)
        if value is None:
            result.pop(key, None)
        elif isinstance(value, Mapping) and isinstance(old, Mapping):
            other_type = "type" in value and value["type"] != old.get("type")
            result[key] = merge_patch({} if other_type else old, value)
        elif isinstance(value, Mapping):
            result[key] = merge_patch({}, value)
        else:
            result[key] = value
    return result
