"""Objects to rows and back, for what is written one at a time. Rules: store/rules.py."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.orm import Session

from vswitch.kinds import KINDS, Key, Stored
from vswitch.store.models import (
    AttachmentRow,
    Base,
    BridgeRow,
    FdbRow,
    GroupRow,
    ObjectRow,
    PolicerRow,
    PortRow,
    RuleSetRow,
    stamp,
)

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


def id_of(session: Session, kind: str, name: str) -> int:
    """Of an object that is there: what is stored has been validated."""
    model = NAMED[kind]
    found: int = session.execute(select(model.id).where(model.name == name)).scalar_one()
    return found


def remove(session: Session, key: Key) -> None:
    row = _find(session, key)
    if row is None:
        raise StoreError(f"{key.path} is not in the database")
    if isinstance(row, RuleSetRow):
        session.execute(delete(AttachmentRow).where(AttachmentRow.ruleset_id == row.id))
    session.delete(row)
    session.flush()


def write(session: Session, new: Stored[Any], old: Stored[Any] | None) -> None:
    row: Any = _find(session, new.key) or _new_row(session, new.key)
    for name, value in columns_of(new).items():
        setattr(row, name, value)
    if isinstance(row, PortRow):
        bridge = new.spec.bridge
        row.bridge_id = None if bridge is None else id_of(session, "bridge", bridge)
    elif isinstance(row, FdbRow):
        row.port_id = id_of(session, "port", new.spec.port)
    session.add(row)
    session.flush()
    if isinstance(row, RuleSetRow) and (old is None or old.spec.attach != new.spec.attach):
        _attach(session, row.id, new)


_COUNT = (
    update(RuleSetRow)
    .where(RuleSetRow.name == bindparam("set_name"))
    .values({name: bindparam(name) for name in ("generation", "revision", "updated_at")})
)


def count(connection: Connection, ruleset: Stored[Any]) -> None:
    """Nothing of the set itself has changed, but a rule of it."""
    connection.execute(
        _COUNT,
        {
            "set_name": ruleset.key.name,
            "generation": ruleset.generation,
            "revision": ruleset.revision,
            "updated_at": stamp(ruleset.updated_at),
        },
    )


def _attach(session: Session, ruleset_id: int, new: Stored[Any]) -> None:
    session.execute(delete(AttachmentRow).where(AttachmentRow.ruleset_id == ruleset_id))
    for attach in new.spec.attach:
        target = attach.target
        column = "bridge_id" if target.kind == "bridge" else "port_id"
        where = {column: id_of(session, target.kind, target.name)}
        session.execute(insert(AttachmentRow).values(ruleset_id=ruleset_id, **where))


def _find(session: Session, key: Key) -> Base | None:
    if key.kind == "fdb":
        query = (
            select(FdbRow)
            .join(BridgeRow, FdbRow.bridge_id == BridgeRow.id)
            .where(FdbRow.mac == key.name, BridgeRow.name == key.parent)
        )
        return session.scalar(query)
    model = NAMED[key.kind]
    found: Base | None = session.scalar(select(model).where(model.name == key.name))
    return found


def _new_row(session: Session, key: Key) -> Base:
    if key.kind == "fdb":
        return FdbRow(mac=key.name, bridge_id=id_of(session, "bridge", key.parent))
    row: Base = NAMED[key.kind](name=key.name)
    return row
