"""Typed face of the C half's rules: layouts that fastpath/rules.py packs, calls of engine.h.

With native.py the only module that touches ``fastpath._native``.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fastpath._native import ffi, lib
from fastpath.native import Engine, NativeError

RULE_NONE: int = lib.RULE_NONE
RULE_ID_BYTES_MAX: int = lib.RULE_ID_MAX
MATCH_BYTES: int = ffi.sizeof("struct rule_match")
KEY_BYTES: int = ffi.sizeof("struct flow_key")
# Of struct flow_key: name -> (first byte, bytes).
KEY_FIELDS: dict[str, tuple[int, int]] = {
    name: (member.offset, ffi.sizeof(member.type))
    for name, member in ffi.typeof("struct flow_key").fields
}
# Of struct rule_match, where the ranges of the ports lie.
RANGES_OFFSET: int = ffi.offsetof("struct rule_match", "l4_src_lo")

L3: int = lib.FLOW_L3
L4: int = lib.FLOW_L4
FRAGMENT: int = lib.FLOW_FRAGMENT
LATER: int = lib.FLOW_LATER
TAGGED: int = lib.FLOW_TAGGED
IP: int = lib.FLOW_IP
PORTS: int = lib.FLOW_PORTS

STATES = {
    "new": lib.FLOW_NEW,
    "established": lib.FLOW_ESTABLISHED,
    "related": lib.FLOW_RELATED,
    "invalid": lib.FLOW_INVALID,
}
ACTIONS: dict[str, int] = {
    "allow": lib.RULE_ALLOW,
    "drop": lib.RULE_DROP,
    "reject": lib.RULE_REJECT,
    "redirect": lib.RULE_REDIRECT,
    "mirror": lib.RULE_MIRROR,
    "police": lib.RULE_POLICE,
    "set": lib.RULE_SET,
    "log": lib.RULE_LOG,
    "jump": lib.RULE_JUMP,
}
ACTION_NAMES = {number: name for name, number in ACTIONS.items()}
SET_VLAN: int = lib.RULE_SET_VLAN
SET_PCP: int = lib.RULE_SET_PCP
SET_DSCP: int = lib.RULE_SET_DSCP
SET_ETH_SRC: int = lib.RULE_SET_ETH_SRC
SET_ETH_DST: int = lib.RULE_SET_ETH_DST


@dataclass(frozen=True, slots=True)
class PlacedAction:
    """``struct rule_action``: every name is a number already."""

    type: int
    log: bool = False
    set_fields: int = 0
    pcp: int = 0
    dscp: int = 0
    eth_src: bytes = bytes(6)
    eth_dst: bytes = bytes(6)
    vid: int = 0
    port: int = RULE_NONE
    policer: int = RULE_NONE
    set: int = RULE_NONE
    snaplen: int = 0


@dataclass(slots=True)
class PlacedRule:
    """``struct rule_config``; ``matches`` is an array of ``struct rule_match`` as bytes.

    ``slot`` is given last. (Not frozen: that would cost more than the rest of making one.)
    """

    slot: int
    priority: int
    id: str
    action: PlacedAction
    matches: bytes


@dataclass(frozen=True, slots=True)
class PlacedSet:
    """``struct rules_set_config``."""

    slot: int
    default_drop: bool


@dataclass(frozen=True, slots=True)
class PlacedAttach:
    """``struct rules_attach_config``; RULE_NONE: the one of bridge and port that is not meant."""

    set: int
    bridge: int
    port: int
    egress: bool
    order: int


@dataclass(frozen=True, slots=True)
class PlacedPolicer:
    """``struct policer_config``."""

    slot: int
    frames: bool
    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class SetSize:
    """``struct rules_set_size``."""

    rules: int = 0
    matches: int = 0
    tables: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class RuleCounter:
    frames: int
    bytes: int
    last_s: int


@dataclass(frozen=True, slots=True)
class LogRecord:
    """``struct rule_log_record``; rule and ports are numbers."""

    time_ns: int
    generation: int
    frame: int
    rule: int
    frame_len: int
    in_port: int
    out_port: int
    action: int
    head: bytes


class RuleTables:
    """The engine's rules: see engine.h for the contract of every call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._err = ffi.new("struct error *")

    def update(self, set: int, removed: Sequence[int], added: Sequence[PlacedRule]) -> None:
        """Change a set aside; NativeError leaves it as it is."""
        gone = ffi.new("uint32_t[]", removed or [0])
        matches = ffi.from_buffer("struct rule_match[]", b"".join(rule.matches for rule in added))
        rules = ffi.new("struct rule_config[]", max(len(added), 1))
        at = ffi.cast("struct rule_match *", matches)
        for into, rule in zip(rules, added, strict=False):
            count = len(rule.matches) // MATCH_BYTES
            _fill_rule(into, rule, at, count)
            at += count
        rc = lib.engine_rules_update(
            self._engine.handle, set, gone, len(removed), rules, len(added), self._err
        )
        self._engine.check(rc, self._err, "rules")

    def remove(self, set: int) -> None:
        rc = lib.engine_rules_remove(self._engine.handle, set, self._err)
        self._engine.check(rc, self._err, "remove rule set")

    def publish(
        self,
        generation: int,
        sets: Sequence[PlacedSet],
        attaches: Sequence[PlacedAttach],
        policers: Sequence[PlacedPolicer],
    ) -> None:
        """What was changed aside is seen from now on; returns when no worker uses what was."""
        set_array = ffi.new("struct rules_set_config[]", [(s.slot, s.default_drop) for s in sets])
        attach_array = ffi.new(
            "struct rules_attach_config[]",
            [(a.set, a.bridge, a.port, a.egress, a.order) for a in attaches],
        )
        policer_array = ffi.new(
            "struct policer_config[]", [(p.slot, p.frames, p.rate, p.burst) for p in policers]
        )
        config = ffi.new("struct rules_config *")
        config.sets, config.set_count = set_array, len(sets)
        config.attaches, config.attach_count = attach_array, len(attaches)
        config.policers, config.policer_count = policer_array, len(policers)
        rc = lib.engine_publish_rules(self._engine.handle, generation, config, self._err)
        self._engine.check(rc, self._err, "publish rules")

    def size(self, set: int) -> SetSize:
        size = ffi.new("struct rules_set_size *")
        rc = lib.engine_rules_size(self._engine.handle, set, size)
        if rc == -errno.ENOENT:
            return SetSize()
        if rc < 0:
            raise NativeError(-rc, "", f"size of rule set {set}")
        return SetSize(size.rules, size.matches, size.tables, size.bytes)

    def counter(self, slot: int) -> RuleCounter:
        sums = ffi.new("struct rule_counter *")
        lib.engine_rule_counters(self._engine.handle, slot, 1, sums)
        return RuleCounter(sums.frames, sums.bytes, sums.last_s)

    def clear_counter(self, slot: int) -> None:
        lib.engine_rule_counters_clear(self._engine.handle, slot)

    def policer_counters(self, slot: int) -> tuple[int, int]:
        """Frames within the rate and beyond it."""
        both = ffi.new("uint64_t[2]")
        lib.engine_policer_counters(self._engine.handle, slot, both, both + 1)
        return both[0], both[1]

    def log(self, most: int) -> tuple[list[LogRecord], int]:
        """At most so many records, oldest first, and how many were lost since the last call."""
        records = ffi.new("struct rule_log_record[]", most)
        lost = ffi.new("uint64_t *")
        count = lib.engine_rule_log(self._engine.handle, records, most, lost)
        return [_record(record) for record in records[0:count]], int(lost[0])


def _fill_rule(into: Any, rule: PlacedRule, matches: Any, count: int) -> None:
    into.slot = rule.slot
    into.priority = rule.priority
    into.id = rule.id.encode()
    into.matches = matches
    into.match_count = count
    action, given = into.action, rule.action
    action.type = given.type
    action.log = given.log
    action.port = given.port
    action.policer = given.policer
    action.set = given.set
    action.snaplen = given.snaplen
    if given.set_fields:
        action.set_fields = given.set_fields
        action.pcp = given.pcp
        action.dscp = given.dscp
        action.vid = given.vid
        action.eth_src = given.eth_src
        action.eth_dst = given.eth_dst


def _record(record: Any) -> LogRecord:
    return LogRecord(
        record.time_ns,
        record.generation,
        record.frame,
        record.rule,
        record.frame_len,
        record.in_port,
        record.out_port,
        record.action,
        bytes(ffi.buffer(record.head, record.head_len)),
    )
