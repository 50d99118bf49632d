"""Is a configuration object one that the engine can take? Pure.

The control plane has validated all of this; the forwarder does not rely on it, because a value
out of range would end as an exception between two steps instead of as an outcome on the object.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastpath.protocol import (
    WireBridge,
    WireGroup,
    WirePolicer,
    WirePort,
    WireRuleSet,
    WireStatic,
)

NAME_BYTES_MAX = 31
U16_MAX = 0xFFFF
U32_MAX = 0xFFFFFFFF
U64_MAX = 0xFFFFFFFFFFFFFFFF
I32_MAX = 0x7FFFFFFF
ADDRESS_BYTES = (4, 6, 16)
VID_MAX = 4094
CPU_MAX = 0x7FFF
OPTIONS_MAX = 64
OPTION_BYTES_MAX = 16384  # a filter program of 512 instructions

VLAN_MODES = ("access", "trunk", "native", "tunnel")
OFFLOAD_POLICIES = ("carry", "complete", "refuse")
POLLING = ("block", "adaptive", "busy")

_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


def problem(obj: WireBridge | WirePort | WireStatic, fdb_entries_max: int) -> str:
    """ "" or one sentence that says what is wrong with ``obj``."""
    if isinstance(obj, WireBridge):
        return _bridge(obj, fdb_entries_max)
    if isinstance(obj, WirePort):
        return _port(obj)
    return _static(obj)


def _name(name: str) -> str:
    size = len(name.encode())
    if not 0 < size <= NAME_BYTES_MAX or not name.isprintable():
        return f"a name has 1 to {NAME_BYTES_MAX} printable bytes, not {name!r}"
    return ""


def _bridge(bridge: WireBridge, fdb_entries_max: int) -> str:
    if text := _name(bridge.name):
        return text
    if not 1 <= bridge.fdb_entries_max <= fdb_entries_max:
        return f"fdb_entries_max is 1 to {fdb_entries_max}, not {bridge.fdb_entries_max}"
    for field, value in (("ageing_s", bridge.ageing_s), ("mtu", bridge.mtu)):
        if not 0 <= value <= U32_MAX:
            return f"{field} {value} is out of range"
    return ""


def _port(port: WirePort) -> str:
    if text := _name(port.name):
        return text
    for field, word, known in (
        ("vlan_mode", port.vlan_mode, VLAN_MODES),
        ("offload_policy", port.offload_policy, OFFLOAD_POLICIES),
        ("polling", port.polling, POLLING),
    ):
        if word not in known:
            return f"{field} is one of {', '.join(known)}, not {word!r}"
    if not 1 <= port.pvid <= VID_MAX:
        return f"pvid is 1 to {VID_MAX}, not {port.pvid}"
    for first, last in port.tagged:
        if not 1 <= first <= last <= VID_MAX:
            return f"tagged: {first}-{last} is no range of VLAN ids"
    if not 0 <= port.isolation_group <= U16_MAX:
        return f"isolation_group is 0 to {U16_MAX}, not {port.isolation_group}"
    if any(not 0 <= cpu <= CPU_MAX for cpu in port.cpus):
        return f"cpus: {port.cpus} holds no cpu numbers"
    return _options(port.options)


def _options(options: dict[str, str]) -> str:
    if len(options) > OPTIONS_MAX:
        return f"{len(options)} options, at most {OPTIONS_MAX} are allowed"
    for name, value in options.items():
        if "\0" in name + value or len(name) + len(value) > OPTION_BYTES_MAX:
            return f"option {name[:40]!r} is too long or holds a zero byte"
    return ""


def _static(static: WireStatic) -> str:
    if not _MAC.fullmatch(static.mac):
        return f"{static.mac!r} is no MAC address in lower case with colons"
    if not 0 <= static.vid <= VID_MAX:
        return f"vid is 0 to {VID_MAX}, not {static.vid}"
    return ""


def group_problem(group: WireGroup) -> str:
    """ "" or one sentence that says what is wrong with it."""
    if text := _name(group.name):
        return text
    for value, mask in group.masks:
        if len(value) not in ADDRESS_BYTES or len(mask) != len(value):
            return f"masks: {value.hex(':')} is no address with a mask of its size"
    return _ranges(group.ranges)


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    for first, last in ranges:
        if not 0 <= first <= last <= U16_MAX:
            return f"ranges: {first}-{last} is no range of ports"
    return ""


def policer_problem(policer: WirePolicer) -> str:
    """ "" or one sentence that says what is wrong with it."""
    if text := _name(policer.name):
        return text
    if policer.unit not in ("bits", "frames"):
        return f"unit is one of bits, frames, not {policer.unit!r}"
    for field, value in (("rate", policer.rate), ("burst", policer.burst)):
        if not 0 < value <= U64_MAX:
            return f"{field} {value} is out of range"
    return ""


def ruleset_problem(ruleset: WireRuleSet) -> str:
    """ "" or one sentence that says what is wrong with it."""
    if text := _name(ruleset.name):
        return text
    for index, attach in enumerate(ruleset.attach):
        if bool(attach.bridge) == bool(attach.port):
            return f"attach[{index}] names a bridge or a port, one of them"
        if not -I32_MAX <= attach.order <= I32_MAX:
            return f"attach[{index}].order {attach.order} is out of range"
    return ""
