"""Every finding of an analysis is so: by a naive model of cover, and by a trace of its witness."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from fastpath.native_analyse import FindingRow, analyse
from fastpath.native_rules import RULE_NONE, PlacedAttach
from fastpath.native_trace import Tracer
from fastpath.protocol import WireAction, WireRule
from fastpath.rules import Alternative, Compiler, Names
from tests.property.test_trace import install, terms
from tests.support.switch import Switch

SET = 0
FINAL = {"allow", "drop", "reject"}


def covers(a: Alternative, b: Alternative) -> bool:
    """Every key that b takes, a takes too."""
    value, mask, src_lo, src_hi, dst_lo, dst_hi = a
    bits = not mask & ~b[1] and b[0] & mask == value
    return bits and src_lo <= b[2] and b[3] <= src_hi and dst_lo <= b[4] and b[5] <= dst_hi


def meets(a: Alternative, b: Alternative) -> bool:
    apart = (a[0] ^ b[0]) & a[1] & b[1]
    src = max(a[2], b[2]) <= min(a[3], b[3])
    return not apart and src and max(a[4], b[4]) <= min(a[5], b[5])


class Model:
    """What may be said of pairs of rules."""

    def __init__(self, compiler: Compiler, rules: list[WireRule]) -> None:
        self.rules = {rule.id: rule for rule in rules}
        self.matches = {rule.id: compiler.alternatives(rule) for rule in rules}

    def order(self, id: str) -> tuple[int, bytes]:
        return self.rules[id].priority, id.encode()

    def holds(self, row: FindingRow) -> bool:
        rule, by = self.rules[row.rule], self.rules[row.by]
        inner, outer = self.matches[row.rule], self.matches[row.by]
        same = rule.action == by.action
        if self.order(row.by) >= self.order(row.rule) or by.action.type not in FINAL:
            return False
        if row.kind == "contradictory":
            met = any(meets(a, b) for a in outer for b in inner)
            return met and not same and rule.priority == by.priority
        covered = all(any(covers(a, b) for a in outer) for b in inner)
        return covered and same == (row.kind == "redundant")


@st.composite
def rules(draw: st.DrawFn) -> WireRule:
    kind = draw(st.sampled_from(["allow", "drop", "drop", "reject", "log"]))
    match = draw(st.lists(terms, max_size=2, unique_by=lambda term: term.field))
    return WireRule(
        ruleset="fw",
        id=draw(st.text("abcdef", min_size=1, max_size=4)),
        priority=draw(st.integers(0, 3)),
        match=tuple(match),
        action=WireAction(kind),
        log=False,
        expires_at=0,
    )


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)
@given(
    st.lists(rules(), min_size=2, max_size=12, unique_by=lambda rule: rule.id),
    st.booleans(),
    st.booleans(),
)
def test_what_is_found_is_so(wanted: list[WireRule], filtering: bool, egress: bool) -> None:
    with Switch(vlan_filtering=filtering) as switch:
        for number, mode in enumerate(("access", "native", "trunk")):
            switch.add(f"p{number}", "memory", vlan_mode=mode, pvid=1, tagged=((1, 3),))
        install(switch, wanted, [False] * 4, [PlacedAttach(SET, 0, RULE_NONE, egress, 0)])
        ports = {port.spec.name: slot for slot, port in switch.ports.items()}
        model = Model(Compiler(Names(ports=ports)), wanted)
        tracer = Tracer(switch.engine)
        rows, cursor, skipped = analyse(switch.engine, SET, 0, 10**10, 256)
        assert (cursor, skipped) == (0, 0)
        assert {row.rule for row in rows if row.kind == "never_hit"} == model.rules.keys()
        for row in rows:
            event(f"{row.kind} {'alone' if row.in_port is None else 'traced'}")
            if row.kind == "never_hit":
                continue
            assert model.holds(row), row
            if row.in_port is not None:
                reading = tracer.trace(row.in_port, row.frame, row.state)
                met = {r.id for s in reading.steps for r in s.rules if r.field == "matched"}
                assert row.by in met


def test_portions_make_the_whole() -> None:
    """However little time a portion has, each rule is told of once."""
    wanted = [
        WireRule("fw", f"r{n:03}", 0, (), WireAction("drop" if n % 2 else "allow"), False, 0)
        for n in range(100)
    ]
    with Switch() as switch:
        switch.add("p0", "memory")
        install(switch, wanted, [False] * 4, [PlacedAttach(SET, 0, RULE_NONE, False, 0)])
        whole, _, _ = analyse(switch.engine, SET, 0, 10**10, 1024)
        parts: list[FindingRow] = []
        cursor, portions = 0, 0
        while portions == 0 or cursor:
            rows, cursor, _ = analyse(switch.engine, SET, cursor, 0, 8)
            parts += rows
            portions += 1
    assert (portions, parts) == (100, whole)
    kinds = {(row.rule, row.kind) for row in whole}
    assert ("r000", "never_hit") in kinds
    assert {("r001", "shadowed"), ("r001", "contradictory"), ("r002", "redundant")} <= kinds
