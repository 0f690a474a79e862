"""Connections to PostgreSQL, each with the times after which the server ends what hangs.

What other packages need of SQLAlchemy they take from here: they never import it.
"""

import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

import psycopg2
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import DBAPIError as DatabaseError
from sqlalchemy.exc import InvalidatePoolError, InvalidRequestError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from db import prepared

__all__ = [
    "Connection",
    "DatabaseError",
    "Engine",
    "PoolTimeout",
    "cancel",
    "commit",
    "connections",
    "is_out_of_time",
    "make_engine",
    "reading",
    "rows",
    "transaction",
]

CONNECT_TIMEOUT_S = 5
# A machine that is gone without a word is noticed when it hasn't answered for so long; asked is it when all is silent.
_UNANSWERED_S = 15
_SILENT_S = 10
# A connection that lay in the pool for longer is asked whether it stands before it is used: a round trip.
_SURE_S = 1.0
# A server that restarts is back within seconds.
_ASK_AGAIN_S = 0.2

T = TypeVar("T")


def make_engine(
    url: str,
    *,
    pool_size: int = 5,
    max_overflow: int = 10,
    pool_timeout: float = 30.0,
    pool_recycle: int = 3600,
    application_name: str = "rollcall",
    statement_timeout_s: float | None = None,
    idle_timeout_s: float | None = None,
    gone_check_s: float | None = None,
) -> Engine:
    """Return an engine for a `postgresql+psycopg2://` URL; nothing connects yet. Pool times are seconds.

    Every session speaks UTC. `application_name` is what the server's list of sessions shows. The server ends a
    statement that takes longer than `statement_timeout_s`, waits for locks included, and a transaction whose process
    says nothing for `idle_timeout_s`; it ends neither without. Every `gone_check_s` of a statement it sees whether this
    process still lives (PostgreSQL 14), and without only at its end. The session of a machine that was cut off ends
    after some 20 s, and with it the locks for which others would wait.
    """
    # What is asked for by key is in memory or on flash: with the default (4, a disk that turns), a job of one account
    # reads the whole list of accounts from end to end as long as it has fewer than some ten thousand.
    options = ["-c timezone=UTC", "-c random_page_cost=1.1"]
    timeouts = {
        "statement_timeout": statement_timeout_s,
        "idle_in_transaction_session_timeout": idle_timeout_s,
        "client_connection_check_interval": gone_check_s,
    }
    options += [f"-c {name}={round(seconds * 1000)}" for name, seconds in timeouts.items() if seconds is not None]
    # The server's side of what `connect_args` say of ours, where it would wait for hours.
    options += [
        f"-c tcp_user_timeout={_UNANSWERED_S * 1000}",
        f"-c tcp_keepalives_idle={_SILENT_S}",
        f"-c tcp_keepalives_interval={_UNANSWERED_S // 3}",
        "-c tcp_keepalives_count=3",
    ]
    # What the URL itself sets comes last, so that it wins.
    given = make_url(url).query.get("options", "")
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=pool_timeout,
        pool_recycle=pool_recycle,
        hide_parameters=True,  # of a statement that failed: errors reach the log
        connect_args={
            "application_name": application_name,
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": _UNANSWERED_S * 1000,
            "keepalives_idle": _SILENT_S,
            "keepalives_interval": _UNANSWERED_S // 3,
            "keepalives_count": 3,
            "options": " ".join([*options, *([given] if isinstance(given, str) else given)]),
            "connection_factory": prepared.Connection,
        },
    )
    event.listen(engine, "checkin", _note_left)
    event.listen(engine, "checkout", lambda driver, record, _: _make_sure(engine, driver, record))
    return engine


def _note_left(_: object, record: Any) -> None:
    record.info["left_at"] = time.monotonic()


def _make_sure(engine: Engine, driver: Any, record: Any) -> None:
    """See that a connection out of the pool still stands; raise InvalidatePoolError, which replaces all, if it doesn't.

    A server that ends one says so at once, and nothing else is sent unasked but news such as changed settings. So one
    that was in use just now, and has nothing to be read, is spared the round trip of SQLAlchemy's pre-ping.
    """
    left_at = record.info.get("left_at")
    if left_at is None or (time.monotonic() - left_at < _SURE_S and not _has_news(driver)):
        return
    try:
        engine.dialect.do_ping(driver)
    except psycopg2.Error as exc:
        raise InvalidatePoolError from exc


def _has_news(driver: Any) -> bool:
    if driver.closed:
        return True
    waiting = select.poll()
    waiting.register(driver.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Commit what the block did, or nothing when it raises."""
    with _connected(engine) as connection, connection.begin():
        yield connection


def commit(engine: Engine, work: Callable[[Connection], T], *, patience_s: float) -> T:
    """Return what `work` returned in a transaction of its own; while the server is away, try again for so long.

    `work` must bear a second time: where the connection broke in the commit, the first may have counted. Raises what
    the last try met.
    """
    gives_up_at = time.monotonic() + patience_s
    while True:
        try:
            with transaction(engine) as connection:
                return work(connection)
        except DatabaseError as exc:
            if not _is_away(exc) or time.monotonic() >= gives_up_at:
                raise
        time.sleep(_ASK_AGAIN_S)


def is_out_of_time(error: DatabaseError) -> bool:
    """Tell whether the server ended a statement because it took too long."""
    return getattr(error.orig, "pgcode", None) == "57014"


def cancel(connection: Connection) -> None:
    """Let the server end what it does for a connection, from another thread than that which waits for it."""
    driver: Any = connection.connection.dbapi_connection
    driver.cancel()


def _is_away(error: DatabaseError) -> bool:
    """Say whether the connection is at fault, new or old, and not what was asked of the server."""
    has_code = getattr(error.orig, "pgcode", None) is not None
    return error.connection_invalidated or (isinstance(error, OperationalError) and not has_code)


class Connections(NamedTuple):
    """How many connections of an engine are in use now, and how many it may open."""

    in_use: int
    most: int


def connections(engine: Engine) -> Connections:
    pool: Any = engine.pool  # a QueuePool, as `make_engine` makes it
    return Connections(pool.checkedout(), pool.size() + pool._max_overflow)


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """Lend a connection that commits each statement by itself: a read needs no BEGIN and no ROLLBACK."""
    with _connected(engine) as connection:
        # Said to the driver alone, which keeps it to itself. With SQLAlchemy's isolation_level, giving the connection back
        # takes a round trip, which raises the driver's own error where the server has just gone.
        driver: Any = connection.connection.dbapi_connection
        driver.autocommit = True
        try:
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False


def rows(conn: Connection, sql: str, values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
    """Return all rows of a statement in the driver's words, as the driver has them.

    SQLAlchemy finds out for each execution anew what the columns are called: with the rest that it does, a quarter of what
    a page of a list costs this process. Whoever watches statements hears of them from it, so then it is asked.
    """
    if conn.engine.dispatch.before_cursor_execute:
        return conn.exec_driver_sql(sql, values).all()
    cursor = conn.connection.cursor()
    try:
        cursor.execute(sql, values)
        found: Sequence[Sequence[Any]] = cursor.fetchall()
    except psycopg2.Error as exc:
        conn._handle_dbapi_exception(exc, sql, values, cursor, None)  # raises it as everything else here does
    cursor.close()
    return found


def _connected(engine: Engine) -> Connection:
    try:
        return engine.connect()
    except InvalidRequestError as exc:  # even the new connection that replaced a broken one broke at once
        raise OperationalError("connect", None, exc, connection_invalidated=True) from exc
