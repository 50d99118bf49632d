"""The map of a set's rules against a dict, and what a change of it shares."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_reconcile import RULES, rule_specs, stored
from vswitch.kinds import Key
from vswitch.kinds.ruletable import EMPTY_TABLE, Rule

names = st.sampled_from((*RULES, "a", "b", "c"))
changes = st.dictionaries(names, st.none() | rule_specs, max_size=6)


def references(rules: dict[str, Rule]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for rule in rules.values():
        for _, key, _ in rule.spec.references():
            found[key] = found.get(key, 0) + 1
    return found


@given(st.lists(changes, max_size=8))
def test_it_is_a_map_that_never_changes(script: list[dict[str, dict[str, object] | None]]) -> None:
    table, expected = EMPTY_TABLE, dict[str, Rule]()
    for step in script:
        before, copy = table, dict(expected)
        new = {
            name: None if spec is None else stored(Key("rule", name, "s"), spec, 1)
            for name, spec in step.items()
        }
        table = table.with_changes(new)
        for name, rule in new.items():
            if rule is None:
                expected.pop(name, None)
            else:
                expected[name] = rule
        assert dict(table) == expected
        assert len(table) == len(expected)
        assert table.references == references(expected)
        order = [(rule.spec.priority, rule.key.name) for rule in table.ordered()]
        assert order == sorted((r.spec.priority, name) for name, r in expected.items())
        assert dict(before) == copy


def test_a_change_of_one_rule_copies_little() -> None:
    rules = {
        f"r{n}": stored(Key("rule", f"r{n}", "s"), {"action": {"type": "drop"}}, 1)
        for n in range(3000)
    }
    table = EMPTY_TABLE.with_changes(rules)
    after = table.with_changes({"r7": replace(rules["r7"], generation=2)})
    apart = [a is not b for a, b in zip(table._shards, after._shards, strict=True)]
    assert sum(apart) == 1
    assert after.references is table.references
