"""The SQLite file: connections with the right pragmas, transactions, migrations.

WAL with synchronous=FULL: a commit that was answered survives power loss. Transactions are begun
by us (BEGIN IMMEDIATE for writers), because SQLAlchemy's default begins them at the first write
and so lets two read-modify-writes interleave.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.pool import NullPool, QueuePool

from vswitch.store.models import Base

BUSY_MS = 5000
BEGIN_WRITE = "BEGIN IMMEDIATE"


def engine_for(path: Path, *, write: bool) -> Engine:
    """One of the two engines of a database. The writer holds at most one connection."""
    pool: dict[str, Any] = (
        {"poolclass": QueuePool, "pool_size": 1, "max_overflow": 0}
        if write
        else {"poolclass": NullPool}
    )
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        connect_args={"check_same_thread": False, "timeout": BUSY_MS / 1000},
        **pool,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "trusted_schema=OFF",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        connection.exec_driver_sql(BEGIN_WRITE if write else "BEGIN")

    return engine


def migrations_dir() -> Path:
    """Beside the package in an installed wheel, at the top of a source tree."""
    package = Path(__file__).resolve().parent.parent
    for candidate in (package / "migrations", package.parent / "migrations"):
        if (candidate / "versions").is_dir():
            return candidate
    raise FileNotFoundError(f"there are no migrations beside {package}")


class Migrations:
    """Reads the scripts at once, so that they can be run after the process gave up its rights."""

    def __init__(self) -> None:
        self._config = Config()
        self._config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
        self._script = ScriptDirectory.from_config(self._config)
        self.heads = tuple(self._script.get_heads())
        list(self._script.walk_revisions())

    def upgrade(self, engine: Engine, to: str = "head") -> None:
        """Bring the database to the newest shape, in one transaction."""

        def steps(revision: Any, _context: Any) -> Any:
            return self._script._upgrade_revs(to, revision)

        with (
            EnvironmentContext(self._config, self._script, fn=steps) as environment,
            engine.connect() as connection,
        ):
            environment.configure(
                connection=connection,
                target_metadata=Base.metadata,
                render_as_batch=True,
                transactional_ddl=True,
            )
            with connection.begin():
                environment.run_migrations()
