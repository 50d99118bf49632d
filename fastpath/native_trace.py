"""Typed face of the C half's traces (trace.h): numbers of the engine, words for its enums.

Beside native.py and native_rules.py one of the modules that touch ``fastpath._native``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastpath._native import ffi, lib
from fastpath.native import DROP_REASONS, Engine


@dataclass(frozen=True, slots=True)
class TraceRule:
    """``struct trace_rule``: ``value`` and ``mask`` of the alternative it was measured by."""

    set: int
    id: str
    action: str
    field: str
    value: dict[str, int | bytes]
    mask: dict[str, int | bytes]
    l4_src: tuple[int, int]
    l4_dst: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TraceStep:
    """``struct trace_step``; enums by their words, ports and sets as slots (None: none)."""

    stage: str
    result: str
    reason: str
    edit: str
    port: int | None
    to: int | None
    vid: int
    default_of: int | None
    bytes: int
    limit: int
    rules: tuple[TraceRule, ...]
    left_out: int


@dataclass(frozen=True, slots=True)
class TraceReading:
    """``struct trace``. ``key``: ``struct flow_key`` by member."""

    generation: int
    key: dict[str, int | bytes]
    steps: tuple[TraceStep, ...]


class Tracer:
    """Asks the engine what would become of frames; has memory for one answer, 700 KB."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._err = ffi.new("struct error *")
        self._trace = ffi.new("struct trace *")

    def trace(self, port: int, frame: bytes, state: int = 0) -> TraceReading:
        """Of a frame that comes in by that port; NativeError: no such frame or port."""
        out = self._trace
        rc = lib.engine_trace(self._engine.handle, port, frame, len(frame), state, out, self._err)
        self._engine.check(rc, self._err, "trace")
        steps = tuple(_step(out, step) for step in out.steps[0 : out.step_count])
        return TraceReading(out.generation, _members(out.key), steps)


def _words(name: str, prefix: str) -> dict[int, str]:
    """Of an enum: TRACE_VLAN_IN -> "vlan_in"."""
    elements: dict[int, str] = ffi.typeof(f"enum {name}").elements
    return {number: text.removeprefix(prefix).lower() for number, text in elements.items()}


_WORDS = {
    "trace_stage": _words("trace_stage", "TRACE_"),
    "trace_result": _words("trace_result", "TRACE_"),
    "trace_field": _words("trace_field", "TRACE_"),
    "vlan_edit": _words("vlan_edit", "VLAN_EDIT_"),
    "rule_action_type": _words("rule_action_type", "RULE_"),
}


def _members(struct: Any) -> dict[str, int | bytes]:
    """A struct of numbers and byte arrays."""
    values: dict[str, int | bytes] = {}
    for name, member in ffi.typeof(struct).fields:
        value = getattr(struct, name)
        values[name] = bytes(ffi.buffer(value)) if member.type.kind == "array" else value
    return values


def _slot_or_none(number: int) -> int | None:
    return None if number == lib.RULE_NONE else number


def _word(name: str, number: int) -> str:
    return _WORDS[name][number]


def _step(trace: Any, step: Any) -> TraceStep:
    rules = trace.rules[step.rules : step.rules + step.rule_count]
    return TraceStep(
        stage=_word("trace_stage", step.stage),
        result=_word("trace_result", step.result),
        reason="" if step.reason == lib.DROP_REASONS else DROP_REASONS[step.reason],
        edit=_word("vlan_edit", step.edit),
        port=_slot_or_none(step.port),
        to=_slot_or_none(step.to),
        vid=step.vid,
        default_of=_slot_or_none(step.default_of),
        bytes=step.bytes,
        limit=step.limit,
        rules=tuple(_rule(rule) for rule in rules),
        left_out=step.left_out,
    )


def _rule(rule: Any) -> TraceRule:
    wants = rule.wants
    return TraceRule(
        set=rule.set,
        id=ffi.string(rule.id).decode(errors="replace"),
        action=_word("rule_action_type", rule.action.type),
        field=_word("trace_field", rule.field),
        value=_members(wants.value),
        mask=_members(wants.mask),
        l4_src=(wants.l4_src_lo, wants.l4_src_hi),
        l4_dst=(wants.l4_dst_lo, wants.l4_dst_hi),
    )
