"""Typed face of the C half's analysis of rule sets (analyse.h)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastpath._native import ffi, lib
from fastpath.native import Engine
from fastpath.native_rules import RULE_NONE

FINDINGS_MIN: int = lib.ANALYSE_FINDINGS_MIN
KINDS: dict[int, str] = {
    number: name.removeprefix("ANALYSE_").lower()
    for number, name in ffi.typeof("enum analyse_kind").elements.items()
}


@dataclass(frozen=True, slots=True)
class FindingRow:
    """``struct analyse_finding``; ``in_port`` None: none leads there."""

    kind: str
    rule: str
    by: str
    state: int
    in_port: int | None
    frame: bytes


def analyse(
    engine: Engine, set: int, cursor: int, budget_ns: int, most: int
) -> tuple[list[FindingRow], int, int]:
    """Findings, the next cursor (0: that was all), rules skipped. NativeError: no such set."""
    err = ffi.new("struct error *")
    rows = ffi.new("struct analyse_finding[]", most)
    position = ffi.new("uint32_t *", cursor)
    skipped = ffi.new("uint32_t *")
    count = lib.engine_analyse(engine.handle, set, position, budget_ns, rows, most, skipped, err)
    engine.check(count, err, "analyse")
    return [_row(row) for row in rows[0:count]], int(position[0]), int(skipped[0])


def _row(row: Any) -> FindingRow:
    return FindingRow(
        kind=KINDS[row.kind],
        rule=ffi.string(row.rule).decode(errors="replace"),
        by=ffi.string(row.by).decode(errors="replace"),
        state=row.state,
        in_port=None if row.in_port == RULE_NONE else row.in_port,
        frame=bytes(ffi.buffer(row.frame, row.frame_len)),
    )
