"""Connections to PostgreSQL: the primary, and a replica for reads where there is one.

What other packages need of SQLAlchemy they take from here: they never import it.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Connection, Engine, create_engine, make_url
from sqlalchemy.exc import DBAPIError as DatabaseError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

__all__ = [
    "Connection",
    "DatabaseError",
    "Engine",
    "Engines",
    "PoolTimeout",
    "make_engine",
    "reading",
    "transaction",
]

CONNECT_TIMEOUT_S = 5
# How long a replica that couldn't be reached is left alone: asking it each time would slow every read.
REPLICA_RETRY_S = 15.0


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    max_overflow: int = 10,
    pool_timeout: float = 30.0,
    pool_recycle: int = 3600,
    application_name: str = "rollcall",
    statement_timeout_s: float | None = None,
) -> Engine:
    """Return an engine for a `postgresql+psycopg2://` URL; nothing connects yet. Pool times are seconds.

    Every session speaks UTC. `application_name` is what the server's list of sessions shows.
    """
    options = ["-c timezone=UTC"]
    if statement_timeout_s is not None:
        options.append(f"-c statement_timeout={round(statement_timeout_s * 1000)}")
    # What the URL itself sets comes last, so that it wins.
    given = make_url(url).query.get("options", "")
    return create_engine(
        url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=pool_timeout,
        pool_recycle=pool_recycle,
        pool_pre_ping=True,
        connect_args={
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "options": " ".join([*options, *([given] if isinstance(given, str) else given)]),
        },
    )


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Commit what the block did, or nothing when it raises."""
    with engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Lend a connection that commits each statement by itself: a read needs no BEGIN and no ROLLBACK."""
    with engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


class Engines:
    """The primary and, where there is one, a replica that takes the reads while it can be reached."""

    def __init__(self, primary: Engine, replica: Engine | None = None) -> None:
        self._primary = primary
        self._replica = replica
        self._replica_asked_again_at = 0.0

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """Lend a connection of the replica, else of the primary. Raises DatabaseError when neither answers."""
        with self._connect() as connection:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Commit what the block did on the primary, or nothing when it raises."""
        with transaction(self._primary) as connection:
            yield connection

    def dispose(self) -> None:
        """Close every pooled connection."""
        self._primary.dispose()
        if self._replica is not None:
            self._replica.dispose()

    def _connect(self) -> Connection:
        if self._replica is not None and time.monotonic() >= self._replica_asked_again_at:
            try:
                return self._replica.connect()
            except OperationalError:
                self._replica_asked_again_at = time.monotonic() + REPLICA_RETRY_S
        return self._primary.connect()
