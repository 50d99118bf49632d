"""Rules to rows, many at a time: a set of 10,000 is a few statements, one rule is a few, too."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, delete, select
from sqlalchemy.dialects.sqlite import Insert, insert
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


# Made once: SQLAlchemy takes longer to make a statement than SQLite to carry it out.
_SET_ID = select(RuleSetRow.id).where(RuleSetRow.name == bindparam("name"))


def _upsert() -> Insert:
    statement = insert(RuleRow)
    kept = {"id", "ruleset_id", "name", "created_at"}
    names = [column.name for column in RuleRow.__table__.columns if column.name not in kept]
    return statement.on_conflict_do_update(
        index_elements=["ruleset_id", "name"],
        set_={name: statement.excluded[name] for name in names},
    )


_UPSERT = _upsert()


def remove_rules(connection: Connection, keys: Sequence[Key]) -> None:
    for ruleset, own in _by_set(keys).items():
        owner = _set_id(connection, ruleset)
        for names in parts(key.name for key in own):
            where = (RuleRow.ruleset_id == owner, RuleRow.name.in_(names))
            connection.execute(delete(RuleRow).where(*where))


def write_rules(connection: Connection, rules: Sequence[Rule], before: Configuration) -> None:
    """New ones and changed ones; every object they name is there."""
    if not rules:
        return
    ids = _ids(connection, {key for rule in rules for _, key, _ in rule.spec.references()})
    owners = {name: _set_id(connection, name) for name in {rule.key.parent for rule in rules}}
    connection.execute(_UPSERT, [_row(rule, owners[rule.key.parent], ids) for rule in rules])
    grouped = [rule for rule in rules if _groups(rule) or _groups(before.get(rule.key))]
    _write_groups(connection, grouped, owners, ids)


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
    connection: Connection, rules: Sequence[Rule], owners: dict[str, int], ids: dict[Key, int]
) -> None:
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


def _ids(connection: Connection, keys: set[Key]) -> dict[Key, int]:
    found: dict[Key, int] = {}
    for kind in {key.kind for key in keys}:
        model = NAMED[kind]
        for names in parts(key.name for key in keys if key.kind == kind):
            query = select(model.name, model.id).where(model.name.in_(names))
            found |= {Key(kind, name): number for name, number in connection.execute(query)}
    return found


def _set_id(connection: Connection, name: str) -> int:
    found: int = connection.execute(_SET_ID, {"name": name}).scalar_one()
    return found


def _by_set(keys: Iterable[Key]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.parent, []).append(key)
    return found
