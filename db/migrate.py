"""Brings a database's schema to the newest revision. No alembic.ini: the connection is handed over."""

from datetime import UTC, datetime

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, func, select

from db import partitions
from db.engine import make_engine, reading, transaction

# Any number, as long as no other lock of ours has it.
_LOCK = 0x726F6C6C01


def upgrade(url: str) -> None:
    """Bring the schema to the newest revision and make today's partitions; change nothing that is there already.

    All in one transaction: a failure leaves the schema as it was. Of two at a time, the second waits, then finds
    nothing to do.
    """
    engine = make_engine(url, pool_size=1, max_overflow=0, application_name="rollcall migrate")
    try:
        with transaction(engine) as conn:
            conn.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            command.upgrade(_config(conn), "head")
            partitions.ensure(conn, today=datetime.now(UTC).date())
    finally:
        engine.dispose()


def is_current(engine: Engine) -> bool:
    """Say whether the database has the newest revision. Raises DatabaseError when it can't be reached."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    with reading(engine) as conn:
        return MigrationContext.configure(conn).get_current_revision() == newest


def _config(conn: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", "db:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = conn
    return config
