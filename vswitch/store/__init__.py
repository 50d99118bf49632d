"""Every query of the control plane. Plain values go in and come out, rows stay inside."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, delete, func, select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from vswitch.kinds import Configuration, Key, Stored
from vswitch.kinds.configuration import of_objects
from vswitch.store.database import BEGIN_WRITE, Migrations, engine_for
from vswitch.store.models import AuditRow, FdbRow, RevisionRow, TokenRow, stamp
from vswitch.store.objects import NAMED, StoreError, count, remove, stored_of, write
from vswitch.store.rules import load_rules, remove_rules, write_rules
from vswitch.store.statements import Statement, inserted
from vswitch.values import now

__all__ = ["Actor", "Migrations", "Revision", "Store", "StoreError"]


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

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Cursor]:
        """A transaction as :meth:`_session` makes one, with nothing between us and SQLite."""
        try:
            connection = self._writer.raw_connection()
            try:
                cursor: Any = connection.cursor()
                cursor.execute(BEGIN_WRITE)
                yield cursor
                connection.commit()
            except BaseException:
                connection.rollback()
                raise
            finally:
                connection.close()
        except sqlite3.Error as error:
            raise StoreError(str(error)) from error

    # --- the configuration ----------------------------------------------------------------------

    def load(self) -> Configuration:
        """All of it; read once, when the process starts."""
        with self._session(write=False) as session:
            rows = {
                kind: {row.id: row for row in session.scalars(select(model))}
                for kind, model in NAMED.items()
            }
            objects = [
                stored_of(Key(kind, row.name), row)
                for kind, found in rows.items()
                for row in found.values()
            ]
            objects += [
                stored_of(Key("fdb", row.mac, rows["bridge"][row.bridge_id].name), row)
                for row in session.scalars(select(FdbRow))
            ]
            objects += load_rules(session)
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
        with self._writing() as cursor:
            rules = {key: new for key, new in changes.items() if key.kind == "rule"}
            others = sorted(changes.keys() - rules.keys(), key=lambda key: _ORDER[key.kind])
            remove_rules(cursor, [key for key, new in rules.items() if new is None])
            for key in reversed(others):
                if changes[key] is None:
                    remove(cursor, key)
            for key in others:
                new = changes[key]
                if new is not None and _only_counted(before, key, new):
                    count(cursor, new)
                elif new is not None:
                    write(cursor, new, before.get(key))
            write_rules(cursor, [new for new in rules.values() if new is not None], before)
            diff = _diff(before, changes)
            row = {"number": revision, "at": at, "actor": actor.name, "diff": diff}
            _INSERT_REVISION.run(cursor, row)
            audited = {
                "at": at,
                "actor": actor.name,
                "action": action,
                "request_id": actor.request_id,
                "revision": revision,
            }
            _INSERT_AUDIT.run_many(cursor, ({**audited, "object": e["object"]} for e in diff))
            if (oldest := revision - keep_revisions) > 0:
                for statement in _FORGET:
                    statement.run(cursor, {"oldest": oldest})

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


_INSERT_REVISION, _INSERT_AUDIT = inserted(RevisionRow), inserted(AuditRow)
_FORGET = (
    Statement(delete(RevisionRow).where(RevisionRow.number <= bindparam("oldest"))),
    Statement(delete(AuditRow).where(AuditRow.revision <= bindparam("oldest"))),
)
_ORDER = {"bridge": 0, "port": 1, "fdb": 2, "group": 3, "policer": 4, "ruleset": 5}
DIFF_RULES_MAX = 100
"""More changed rules of one set than that are told as numbers: a set may have 131,072."""


def _diff(before: Configuration, changes: Mapping[Key, Stored[Any] | None]) -> list[dict[str, Any]]:
    by_set = Counter(key.parent for key in changes if key.kind == "rule")
    many = {name for name, count in by_set.items() if count > DIFF_RULES_MAX}
    diff = [
        _entry(key.path, _document(before.get(key)), _document(new))
        for key, new in changes.items()
        if (key.kind != "rule" or key.parent not in many) and not _only_counted(before, key, new)
    ]
    for name in sorted(many):
        old = len(before.rules_of(name))
        own = {
            key: new for key, new in changes.items() if key.kind == "rule" and key.parent == name
        }
        gone = sum(new is None for new in own.values())
        come = sum(new is not None and before.get(key) is None for key, new in own.items())
        counts = {"rules": old}, {"rules": old - gone + come, "changed": len(own)}
        diff.append(_entry(f"rulesets/{name}/rules", *counts))
    return diff


def _only_counted(before: Configuration, key: Key, new: Stored[Any] | None) -> bool:
    """A set whose generation grew because of a rule; the rule has an entry of its own."""
    old = before.get(key) if key.kind == "ruleset" else None
    return (
        old is not None
        and new is not None
        and (old.uid, old.spec, old.labels, old.description)
        == (new.uid, new.spec, new.labels, new.description)
    )


def _entry(path: str, old: Any, new: Any) -> dict[str, Any]:
    return {"object": path, "before": old, "after": new}


def _revision(row: RevisionRow) -> Revision:
    return Revision(row.number, datetime.fromisoformat(row.at), row.actor, tuple(row.diff))


def _document(stored: Stored[Any] | None) -> dict[str, Any] | None:
    if stored is None:
        return None
    return {
        "generation": stored.generation,
        "labels": dict(stored.labels),
        "description": stored.description,
        "spec": stored.spec.document(),
    }
