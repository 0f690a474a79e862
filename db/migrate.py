"""Brings a database's schema to the newest revision. No alembic.ini: the connection is handed over."""

import time
from datetime import UTC, datetime

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, select, text

from db import partitions, roles
from db.engine import DatabaseError, make_engine, reading, transaction
from db.roles import Roles

# Any number, as long as no other lock of ours has it.
_LOCK = 0x726F6C6C01
# Whoever reads a table waits behind one who waits for a lock on it: so long at a time, then those go first.
LOCK_WAIT_S = 1
PATIENCE_S = 60.0
_ASK_AGAIN_S = 0.5
_LOCK_TIMEOUT = text(f"SET lock_timeout = '{LOCK_WAIT_S}s'")


class Newer(Exception):
    """The database has the schema of a newer Rollcall; `str()` says what to do."""

    def __init__(self, revision: str) -> None:
        super().__init__(
            f"The schema is of revision {revision}, which this Rollcall doesn't know: install the newer one that made it, "
            "or restore a backup from before it."
        )


def upgrade(url: str, *, partition_months: int = 12, follow: Roles | None = None) -> None:
    """Bring the schema to the newest revision and make today's partitions; change nothing that is there already.

    What roles may do follows the new schema, where they were given rights in this database once (`db.roles`).

    Readers and workers go on meanwhile. Each revision has a transaction of its own: a failure leaves the schema at the
    last one that was reached, and the next run goes on from there. Of two at a time, the second waits, then finds nothing
    to do. Raises DatabaseError, of which partitions.is_busy holds, while a long read or write keeps a table locked, and
    Newer.
    """
    engine = make_engine(url, pool_size=1, max_overflow=0, application_name="rollcall migrate")
    try:
        with engine.connect() as conn:
            conn.execute(select(func.pg_advisory_lock(_LOCK)))  # until the session ends
            conn.execute(_LOCK_TIMEOUT)
            conn.commit()
            _to_newest(conn)
        with transaction(engine) as conn:
            partitions.ensure(conn, today=datetime.now(UTC).date(), months=partition_months)
            if follow is not None and roles.were_granted(conn, follow):
                roles.grant(conn, follow)
    finally:
        engine.dispose()


def _to_newest(conn: Connection) -> None:
    """Run the revisions that are missing. A lock that isn't to be had is let go, and asked for again."""
    if (revision := _revision(conn)) not in (None, *revisions()):
        raise Newer(str(revision))
    conn.commit()
    gives_up_at = time.monotonic() + PATIENCE_S
    while True:
        try:
            command.upgrade(_config(conn), "head")
            return
        except DatabaseError as exc:
            if not partitions.is_busy(exc) or time.monotonic() >= gives_up_at:
                raise
        time.sleep(_ASK_AGAIN_S)


def is_current(engine: Engine) -> bool:
    """Say whether the database has the newest revision. Raises DatabaseError when it can't be reached."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    with reading(engine) as conn:
        return _revision(conn) == newest


def is_newer(engine: Engine) -> bool:
    """Say whether the database has a revision that this code doesn't know. Raises DatabaseError as above."""
    with reading(engine) as conn:
        return _revision(conn) not in (None, *revisions())


def _revision(conn: Connection) -> str | None:
    return MigrationContext.configure(conn).get_current_revision()


def revisions() -> frozenset[str]:
    """Return every revision that this code knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def _config(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    return config
