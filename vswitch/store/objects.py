"""Objects to rows and back, for what is written one at a time. Rules: store/rules.py."""

from __future__ import annotations

import sqlite3
from datetime import datetime
from typing import Any

from sqlalchemy import bindparam, delete, select, update

from vswitch.kinds import KINDS, Key, Stored
from vswitch.store.models import (
    AttachmentRow,
    BridgeRow,
    FdbRow,
    GroupRow,
    ObjectRow,
    PolicerRow,
    PortRow,
    RuleSetRow,
    stamp,
)
from vswitch.store.statements import Statement, inserted, upserted

NAMED: dict[str, Any] = {
    "bridge": BridgeRow,
    "port": PortRow,
    "group": GroupRow,
    "policer": PolicerRow,
    "ruleset": RuleSetRow,
}
"""Kinds whose objects a name alone tells apart."""


class StoreError(Exception):
    """The database could not be read or written; nothing was changed."""


def stored_of(key: Key, row: ObjectRow) -> Stored[Any]:
    try:
        spec = KINDS[key.kind].kept.model_validate(row.spec)
    except ValueError as error:
        raise StoreError(f"{key.path} in the database makes no sense: {error}") from error
    return Stored(
        key=key,
        uid=row.uid,
        labels=row.labels,
        description=row.description,
        generation=row.generation,
        revision=row.revision,
        spec=spec,
        created_at=datetime.fromisoformat(row.created_at),
        updated_at=datetime.fromisoformat(row.updated_at),
    )


def columns_of(new: Stored[Any]) -> dict[str, Any]:
    """What every object has."""
    return {
        "uid": new.uid,
        "labels": dict(new.labels),
        "description": new.description,
        "generation": new.generation,
        "revision": new.revision,
        "spec": new.spec.document(),
        "created_at": stamp(new.created_at),
        "updated_at": stamp(new.updated_at),
    }


_ID = {
    kind: Statement(select(m.id).where(m.name == bindparam("name"))) for kind, m in NAMED.items()
}
_REMOVE = {
    kind: Statement(delete(m).where(m.name == bindparam("name"))) for kind, m in NAMED.items()
}
_WRITE = {kind: upserted(model, "name") for kind, model in NAMED.items()}
_REMOVE_FDB = Statement(
    delete(FdbRow).where(
        FdbRow.mac == bindparam("name"),
        FdbRow.bridge_id
        == select(BridgeRow.id).where(BridgeRow.name == bindparam("parent")).scalar_subquery(),
    )
)
_WRITE_FDB = upserted(FdbRow, "bridge_id", "mac")
_COUNT = Statement(
    update(RuleSetRow)
    .where(RuleSetRow.name == bindparam("set_name"))
    .values({name: bindparam(name) for name in ("generation", "revision", "updated_at")})
)
_DETACH = Statement(
    delete(AttachmentRow).where(
        AttachmentRow.ruleset_id
        == select(RuleSetRow.id).where(RuleSetRow.name == bindparam("name")).scalar_subquery()
    )
)
_ATTACH = inserted(AttachmentRow)


def id_of(cursor: sqlite3.Cursor, kind: str, name: str) -> int:
    """Of an object that is there: what is stored has been validated."""
    found = _ID[kind].run(cursor, {"name": name}).fetchone()
    if found is None:
        raise StoreError(f"{Key(kind, name).path} is not in the database")
    number: int = found[0]
    return number


def remove(cursor: sqlite3.Cursor, key: Key) -> None:
    if key.kind == "ruleset":
        _DETACH.run(cursor, {"name": key.name})
    statement = _REMOVE_FDB if key.kind == "fdb" else _REMOVE[key.kind]
    if statement.run(cursor, key._asdict()).rowcount != 1:
        raise StoreError(f"{key.path} is not in the database")


def write(cursor: sqlite3.Cursor, new: Stored[Any], old: Stored[Any] | None) -> None:
    key, columns = new.key, columns_of(new)
    if key.kind == "fdb":
        columns["mac"] = key.name
        columns["bridge_id"] = id_of(cursor, "bridge", key.parent)
        columns["port_id"] = id_of(cursor, "port", new.spec.port)
        _WRITE_FDB.run(cursor, columns)
        return
    columns["name"] = key.name
    if key.kind == "port":
        bridge = new.spec.bridge
        columns["bridge_id"] = None if bridge is None else id_of(cursor, "bridge", bridge)
    _WRITE[key.kind].run(cursor, columns)
    if key.kind == "ruleset" and (old is None or old.spec.attach != new.spec.attach):
        _attach(cursor, new)


def count(cursor: sqlite3.Cursor, ruleset: Stored[Any]) -> None:
    """Nothing of the set itself has changed, but a rule of it."""
    _COUNT.run(
        cursor,
        {
            "set_name": ruleset.key.name,
            "generation": ruleset.generation,
            "revision": ruleset.revision,
            "updated_at": stamp(ruleset.updated_at),
        },
    )


def _attach(cursor: sqlite3.Cursor, new: Stored[Any]) -> None:
    _DETACH.run(cursor, {"name": new.key.name})
    owner = id_of(cursor, "ruleset", new.key.name)
    for attach in new.spec.attach:
        target = attach.target
        where = dict.fromkeys(("bridge_id", "port_id"))
        where[f"{target.kind}_id"] = id_of(cursor, target.kind, target.name)
        _ATTACH.run(cursor, {"ruleset_id": owner, **where})
