"""Rules to rows, many at a time: a set of 10,000 is a few statements, one rule is a few, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import delete, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.orm import Session

from vswitch.kinds import Configuration, Key, Stored
from vswitch.kinds.rule import RuleSpec
from vswitch.store.models import RuleGroupRow, RuleRow, RuleSetRow
from vswitch.store.objects import NAMED, columns_of, stored_of

Rule = Stored[RuleSpec]
T = TypeVar("T")
IN_MAX = 500  # values in one IN (...); SQLite takes 32,766
_COLUMNS = {
    ("match", "port"): "in_port_id",
    ("action", "port"): "port_id",
    ("action", "policer"): "policer_id",
    ("action", "ruleset"): "jump_id",
}
"""By the part of the rule and the kind of what it names there."""


def parts(items: Iterable[T]) -> Iterator[list[T]]:
    iterator = iter(items)
    while part := list(islice(iterator, IN_MAX)):
        yield part


def load_rules(session: Session) -> Iterator[Rule]:
    query = select(RuleSetRow.name, RuleRow).join(RuleSetRow, RuleRow.ruleset_id == RuleSetRow.id)
    for ruleset, row in session.execute(query.execution_options(yield_per=1000)):
        yield stored_of(Key("rule", row.name, ruleset), row)


def remove_rules(session: Session, keys: Sequence[Key]) -> None:
    for ruleset, own in _by_set(keys).items():
        owner = _set_id(session, ruleset)
        for names in parts(key.name for key in own):
            where = (RuleRow.ruleset_id == owner, RuleRow.name.in_(names))
            session.connection().execute(delete(RuleRow).where(*where))


def write_rules(session: Session, rules: Sequence[Rule], before: Configuration) -> None:
    """New ones and changed ones; every object they name is there."""
    if not rules:
        return
    ids = _ids(session, {key for rule in rules for _, key, _ in rule.spec.references()})
    owners = {name: _set_id(session, name) for name in {rule.key.parent for rule in rules}}
    rows = [_row(rule, owners[rule.key.parent], ids) for rule in rules]
    statement = insert(RuleRow)
    changed = {name: statement.excluded[name] for name in rows[0] if name != "created_at"}
    session.connection().execute(
        statement.on_conflict_do_update(index_elements=["ruleset_id", "name"], set_=changed), rows
    )
    grouped = [rule for rule in rules if _groups(rule) or _groups(before.get(rule.key))]
    _write_groups(session, grouped, owners, ids)


def _row(rule: Rule, owner: int, ids: dict[Key, int]) -> dict[str, Any]:
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


def _write_groups(
    session: Session, rules: Sequence[Rule], owners: dict[str, int], ids: dict[Key, int]
) -> None:
    connection = session.connection()
    for part in parts(rules):
        names = {(owners[rule.key.parent], rule.key.name): rule for rule in part}
        query = select(RuleRow.id, RuleRow.ruleset_id, RuleRow.name).where(
            RuleRow.ruleset_id.in_(owners.values()), RuleRow.name.in_({n for _, n in names})
        )
        found = {
            row.id: names[row.ruleset_id, row.name]
            for row in connection.execute(query)
            if (row.ruleset_id, row.name) in names
        }
        connection.execute(delete(RuleGroupRow).where(RuleGroupRow.rule_id.in_(found)))
        pairs = [
            {"rule_id": number, "group_id": ids[key]}
            for number, rule in found.items()
            for key in _groups(rule)
        ]
        if pairs:
            connection.execute(insert(RuleGroupRow), pairs)


def _ids(session: Session, keys: set[Key]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for kind in {key.kind for key in keys}:
        model = NAMED[kind]
        for names in parts(key.name for key in keys if key.kind == kind):
            query = select(model.name, model.id).where(model.name.in_(names))
            found |= {Key(kind, name): number for name, number in session.execute(query)}
    return found


def _set_id(session: Session, name: str) -> int:
    return session.execute(select(RuleSetRow.id).where(RuleSetRow.name == name)).scalar_one()


def _by_set(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.parent, []).append(key)
    return found
