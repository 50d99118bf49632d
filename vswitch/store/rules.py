"""Rules to rows, many at a time: a set of 10,000 is a few statements, one rule is a few, too."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from vswitch.kinds import Configuration, Key, Stored
from vswitch.kinds.rule import RuleSpec
from vswitch.store.models import RuleGroupRow, RuleRow, RuleSetRow
from vswitch.store.objects import columns_of, id_of, stored_of
from vswitch.store.statements import Statement, upserted

Rule = Stored[RuleSpec]
_COLUMNS = {
    ("match", "port"): "in_port_id",
    ("action", "port"): "port_id",
    ("action", "policer"): "policer_id",
    ("action", "ruleset"): "jump_id",
}
"""By the part of the rule and the kind of what it names there."""


def load_rules(session: Session) -> Iterator[Rule]:
    query = select(RuleSetRow.name, RuleRow).join(RuleSetRow, RuleRow.ruleset_id == RuleSetRow.id)
    for ruleset, row in session.execute(query.execution_options(yield_per=1000)):
        yield stored_of(Key("rule", row.name, ruleset), row)


_WRITE = upserted(RuleRow, "ruleset_id", "name")
_OWN = (RuleRow.ruleset_id == bindparam("ruleset_id"), RuleRow.name == bindparam("name"))
_REMOVE = Statement(delete(RuleRow).where(*_OWN))
# Without the columns that have an index: an index is written even with what it has already.
_RENEW = Statement(
    update(RuleRow)
    .where(*_OWN)
    .values(
        {
            name: bindparam(name)
            for name in ("labels", "description", "generation", "revision", "spec", "updated_at")
        }
    )
)
_UNGROUP = Statement(
    delete(RuleGroupRow).where(
        RuleGroupRow.rule_id == select(RuleRow.id).where(*_OWN).scalar_subquery()
    )
)
_GROUP = Statement(
    insert(RuleGroupRow).from_select(
        ["rule_id", "group_id"], select(RuleRow.id, bindparam("group_id")).where(*_OWN)
    )
)


def remove_rules(cursor: sqlite3.Cursor, keys: Iterable[Key]) -> None:
    for ruleset, own in _by_set(keys).items():
        owner = id_of(cursor, "ruleset", ruleset)
        _REMOVE.run_many(cursor, ({"ruleset_id": owner, "name": key.name} for key in own))


def write_rules(cursor: sqlite3.Cursor, rules: Sequence[Rule], before: Configuration) -> None:
    """New ones and changed ones; every object they name is there."""
    ids = _Ids(cursor)
    renewed = {rule.key for rule in rules if _names_the_same(rule, before.get(rule.key))}
    _RENEW.run_many(cursor, (_row(rule, ids) for rule in rules if rule.key in renewed))
    others = [rule for rule in rules if rule.key not in renewed]
    _WRITE.run_many(cursor, (_row(rule, ids) for rule in others))
    for rule in others:
        groups = _groups(rule)
        if groups or _groups(before.get(rule.key)):
            _write_groups(cursor, rule, groups, ids)


def _names_the_same(rule: Rule, old: Rule | None) -> bool:
    return old is not None and list(old.spec.references()) == list(rule.spec.references())


class _Ids(dict[Key, int]):
    """Numbers of what is named, each asked for once, while another cursor writes."""

    def __init__(self, cursor: sqlite3.Cursor) -> None:
        self._cursor = cursor.connection.cursor()

    def __missing__(self, key: Key) -> int:
        number = self[key] = id_of(self._cursor, key.kind, key.name)
        return number


def _row(rule: Rule, ids: _Ids) -> dict[str, Any]:
    owner = ids[Key("ruleset", rule.key.parent)]
    row: dict[str, Any] = columns_of(rule) | {"ruleset_id": owner, "name": rule.key.name}
    row |= dict.fromkeys(_COLUMNS.values())
    for place, key, _ in rule.spec.references():
        column = _COLUMNS.get((str(place[0]), key.kind))
        if column is not None:
            row[column] = ids[key]
    return row


def _groups(rule: Rule | None) -> set[Key]:
    references = rule.spec.references() if rule is not None else ()
    return {key for _, key, _ in references if key.kind == "group"}


def _write_groups(cursor: sqlite3.Cursor, rule: Rule, groups: set[Key], ids: _Ids) -> None:
    own = {"ruleset_id": ids[Key("ruleset", rule.key.parent)], "name": rule.key.name}
    _UNGROUP.run(cursor, own)
    for key in groups:
        _GROUP.run(cursor, {**own, "group_id": ids[key]})


def _by_set(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.parent, []).append(key)
    return found
