"""Statements that are made once, of the tables in models.py, and carried out by SQLite itself.

SQLAlchemy takes ten times as long around a statement as SQLite takes to carry it out, and a commit
of one rule among thousands is six statements that frames wait for.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from sqlalchemy import ClauseElement, Table
from sqlalchemy.dialects.sqlite import dialect, insert

from vswitch.store.models import Base

_DIALECT = dialect()


class Statement:
    """Values are given by the names of the statement's parameters; dicts and lists are JSON."""

    def __init__(self, statement: ClauseElement, columns: Iterable[str] | None = None) -> None:
        """``columns``: those that an INSERT has values for."""
        compiled: Any = statement.compile(
            dialect=_DIALECT, column_keys=None if columns is None else list(columns)
        )
        self._sql: str = compiled.string
        self._names: tuple[str, ...] = tuple(compiled.positiontup)

    def run(self, cursor: sqlite3.Cursor, values: Mapping[str, Any]) -> sqlite3.Cursor:
        return cursor.execute(self._sql, self._ordered(values))

    def run_many(self, cursor: sqlite3.Cursor, rows: Iterable[Mapping[str, Any]]) -> None:
        cursor.executemany(self._sql, map(self._ordered, rows))

    def _ordered(self, values: Mapping[str, Any]) -> list[Any]:
        return [
            msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value
            for value in map(values.__getitem__, self._names)
        ]


def table_of(model: type[Base]) -> Table:
    table: Any = model.__table__
    return table  # type: ignore[no-any-return]


def inserted(model: type[Base]) -> Statement:
    """A new row, numbered by the database."""
    names = [column.name for column in table_of(model).columns if column.name != "id"]
    return Statement(insert(model), names)


def upserted(model: type[Base], *unique: str) -> Statement:
    """A new row, or new values for the one with these: it stays what it is since it was made."""
    names = [column.name for column in table_of(model).columns if column.name != "id"]
    statement = insert(model)
    kept = {*unique, "uid", "created_at"}
    return Statement(
        statement.on_conflict_do_update(
            index_elements=list(unique),
            set_={name: statement.excluded[name] for name in names if name not in kept},
        ),
        names,
    )
