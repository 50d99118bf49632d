"""Every query of the control plane. Plain values go in and come out, rows stay inside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from vswitch.kinds import KINDS, Configuration, Key, Stored
from vswitch.kinds.configuration import of_objects
from vswitch.store.database import Migrations, engine_for
from vswitch.store.models import (
    AuditRow,
    BridgeRow,
    FdbRow,
    ObjectRow,
    PortRow,
    RevisionRow,
    TokenRow,
    stamp,
)
from vswitch.values import now

__all__ = ["Actor", "Migrations", "Revision", "Store", "StoreError"]


class StoreError(Exception):
    """The database could not be read or written; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Who does something, and in which request."""

    name: str
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Revision:
    number: int
    at: datetime
    actor: str
    diff: tuple[Mapping[str, Any], ...]


class Store:
    """One database. The control plane is its only writer and holds a lock that keeps it so."""

    def __init__(self, path: Path, migrations: Migrations | None = None) -> None:
        self._writer = engine_for(path, write=True)
        self._reader = engine_for(path, write=False)
        try:
            (migrations or Migrations()).upgrade(self._writer)
        except DBAPIError as error:
            self.close()
            raise StoreError(f"{path}: {error.orig}") from error

    def close(self) -> None:
        self._writer.dispose()
        self._reader.dispose()

    @contextmanager
    def _session(self, *, write: bool) -> Iterator[Session]:
        """A transaction: all or nothing, committed when the block is left without exception."""
        try:
            with Session(self._writer if write else self._reader) as session, session.begin():
                yield session
        except DBAPIError as error:
            raise StoreError(str(error.orig)) from error

    # --- the configuration ----------------------------------------------------------------------

    def load(self) -> Configuration:
        """All of it; read once, when the process starts."""
        with self._session(write=False) as session:
            bridges = {row.id: row for row in session.scalars(select(BridgeRow))}
            ports = {row.id: row for row in session.scalars(select(PortRow))}
            objects = [_stored(Key("bridge", row.name), row) for row in bridges.values()]
            objects += [_stored(Key("port", row.name), row) for row in ports.values()]
            objects += [
                _stored(Key("fdb", row.mac, bridges[row.bridge_id].name), row)
                for row in session.scalars(select(FdbRow))
            ]
            revision = session.scalar(select(func.max(RevisionRow.number))) or 0
            return of_objects(revision, objects)

    def commit(
        self,
        revision: int,
        changes: Mapping[Key, Stored[Any] | None],
        before: Configuration,
        actor: Actor,
        action: str,
        keep_revisions: int,
    ) -> None:
        """Write one revision with its audit rows. Order respects what refers to what."""
        at = stamp(now())
        with self._session(write=True) as session:
            for key in sorted(changes, key=_delete_order):
                if changes[key] is None:
                    session.delete(_row(session, key))
                    session.flush()
            for key in sorted(changes, key=_upsert_order):
                new = changes[key]
                if new is not None:
                    _write(session, new)
            diff = [_difference(key, before.get(key), new) for key, new in changes.items()]
            session.add(RevisionRow(number=revision, at=at, actor=actor.name, diff=diff))
            for key in changes:
                session.add(
                    AuditRow(
                        at=at,
                        actor=actor.name,
                        action=action,
                        object=key.path,
                        request_id=actor.request_id,
                        revision=revision,
                    )
                )
            oldest = revision - keep_revisions
            session.execute(delete(RevisionRow).where(RevisionRow.number <= oldest))
            session.execute(delete(AuditRow).where(AuditRow.revision <= oldest))

    # --- history --------------------------------------------------------------------------------

    def revisions(self, below: int | None, limit: int) -> list[Revision]:
        """Newest first, numbers below `below`."""
        query = select(RevisionRow).order_by(RevisionRow.number.desc()).limit(limit)
        if below is not None:
            query = query.where(RevisionRow.number < below)
        with self._session(write=False) as session:
            return [_revision(row) for row in session.scalars(query)]

    def revision(self, number: int) -> Revision | None:
        with self._session(write=False) as session:
            row = session.get(RevisionRow, number)
            return None if row is None else _revision(row)

    # --- tokens ---------------------------------------------------------------------------------

    def tokens(self) -> list[tuple[str, str, str]]:
        """Rows of (name, hash, role)."""
        with self._session(write=False) as session:
            return [(row.name, row.hash, row.role) for row in session.scalars(select(TokenRow))]

    def put_token(self, name: str, digest: str, role: str, actor: Actor) -> None:
        at = stamp(now())
        with self._session(write=True) as session:
            row = session.scalar(select(TokenRow).where(TokenRow.name == name))
            if row is None:
                session.add(TokenRow(name=name, hash=digest, role=role, created_at=at))
            else:
                row.hash, row.role = digest, role
            session.add(
                AuditRow(
                    at=at,
                    actor=actor.name,
                    action="put",
                    object=f"tokens/{name}",
                    request_id=actor.request_id,
                    revision=None,
                )
            )


_ORDER = {"bridge": 0, "port": 1, "fdb": 2}


def _upsert_order(key: Key) -> int:
    return _ORDER[key.kind]


def _delete_order(key: Key) -> int:
    return -_ORDER[key.kind]


def _stored(key: Key, row: ObjectRow) -> Stored[Any]:
    try:
        spec = KINDS[key.kind].spec.model_validate(row.spec)
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


def _revision(row: RevisionRow) -> Revision:
    return Revision(row.number, datetime.fromisoformat(row.at), row.actor, tuple(row.diff))


def _bridge_id(session: Session, name: str) -> int:
    return session.execute(select(BridgeRow.id).where(BridgeRow.name == name)).scalar_one()


def _find(session: Session, key: Key) -> ObjectRow | None:
    if key.kind == "bridge":
        return session.scalar(select(BridgeRow).where(BridgeRow.name == key.name))
    if key.kind == "port":
        return session.scalar(select(PortRow).where(PortRow.name == key.name))
    return session.scalar(
        select(FdbRow)
        .join(BridgeRow, FdbRow.bridge_id == BridgeRow.id)
        .where(FdbRow.mac == key.name, BridgeRow.name == key.bridge)
    )


def _row(session: Session, key: Key) -> ObjectRow:
    row = _find(session, key)
    if row is None:
        raise StoreError(f"{key.path} is not in the database")
    return row


def _new_row(session: Session, key: Key) -> ObjectRow:
    if key.kind == "bridge":
        return BridgeRow(name=key.name)
    if key.kind == "port":
        return PortRow(name=key.name)
    return FdbRow(mac=key.name, bridge_id=_bridge_id(session, key.bridge))


def _write(session: Session, new: Stored[Any]) -> None:
    row = _find(session, new.key) or _new_row(session, new.key)
    row.uid = new.uid
    row.labels = dict(new.labels)
    row.description = new.description
    row.generation = new.generation
    row.revision = new.revision
    row.spec = new.spec.document()
    row.created_at = stamp(new.created_at)
    row.updated_at = stamp(new.updated_at)
    if isinstance(row, PortRow):
        bridge = new.spec.bridge
        row.bridge_id = None if bridge is None else _bridge_id(session, bridge)
    elif isinstance(row, FdbRow):
        port = select(PortRow.id).where(PortRow.name == new.spec.port)
        row.port_id = session.execute(port).scalar_one()
    session.add(row)
    session.flush()


def _difference(key: Key, old: Stored[Any] | None, new: Stored[Any] | None) -> dict[str, Any]:
    return {"object": key.path, "before": _document(old), "after": _document(new)}


def _document(stored: Stored[Any] | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "generation": stored.generation,
        "labels": dict(stored.labels),
        "description": stored.description,
        "spec": stored.spec.document(),
    }
