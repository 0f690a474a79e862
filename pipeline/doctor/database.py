"""PostgreSQL: reachable, migrated, with the rights and the partitions that are needed, and by the same clock."""

from collections.abc import Iterator
from datetime import UTC, datetime

from db import migrate, overview, partitions, reads, roles, server
from db.dataset import source_of
from db.engine import Connection, DatabaseError, Engine, reading
from pipeline.doctor.finding import Finding, said_by_server
from pipeline.settings import Settings

SKEW_WARN_S = 2.0
SKEW_FAIL_S = 60.0
_WORDS_SHOWN = 3


def examine(settings: Settings, engine: Engine) -> Iterator[Finding]:
    try:
        with reading(engine) as conn:
            reads.alive(conn)
    except DatabaseError as exc:
        yield Finding("fail", "database", said_by_server(exc), "start PostgreSQL or correct DATABASE_URL")
        return
    yield Finding("ok", "database", "answers")
    with reading(engine) as conn:
        yield _language(conn)
        yield _clock(conn)
    schema = _schema(engine)
    yield schema
    if schema.level != "ok":
        return
    with reading(engine) as conn:
        role = _role(conn)
        yield role
        if role.level != "fail":
            yield _source(conn, settings)
            yield _partitions(conn, settings)


def _language(conn: Connection) -> Finding:
    """Look whether the session speaks UTC, by which days are told apart, and whether every letter can be kept."""
    speaks = server.language(conn)
    if speaks.encoding != "UTF8":
        mend = "make the database anew: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        return Finding("fail", "database speaks", f"{speaks.encoding}, which can't keep every name", mend)
    if speaks.time_zone not in ("UTC", "Etc/UTC", "GMT"):
        mend = "take `timezone` out of DATABASE_URL, or let the connection pooler pass `options` on"
        return Finding("fail", "database speaks", f"the time of {speaks.time_zone}, so days begin elsewhere", mend)
    return Finding("ok", "database speaks", "UTF-8 and UTC")


def _schema(engine: Engine) -> Finding:
    try:
        if migrate.is_current(engine):
            return Finding("ok", "schema", "is the newest")
        if migrate.is_newer(engine):
            mend = "install the version that made it, or see docs/upgrading.md"
            return Finding("warn", "schema", "is of a newer Rollcall than this one", mend)
    except DatabaseError as exc:
        return Finding("fail", "schema", said_by_server(exc), "run `rollcall db roles` as the tables' owner")
    return Finding("fail", "schema", "is not the newest", "run `rollcall db upgrade`")


def _role(conn: Connection) -> Finding:
    found = roles.standing(conn)
    if found.is_superuser:
        mend = "use roles with fewer rights: see `rollcall db roles`"
        return Finding("warn", "role", f"{found.role} is a superuser: who takes a process over has the server", mend)
    if found.is_owner:
        return Finding("ok", "role", f"{found.role} owns the tables")
    if not found.lacks_as_api:
        return Finding("ok", "role", f"{found.role} may do what the API does")
    if not found.lacks_as_workers:
        return Finding("ok", "role", f"{found.role} may do what workers, beat and the recorder do")
    lacks = min(found.lacks_as_api, found.lacks_as_workers, key=len)
    said = f"{found.role} lacks {', '.join(lacks[:_WORDS_SHOWN])}" + (" …" if len(lacks) > _WORDS_SHOWN else "")
    return Finding("fail", "role", said, "run `rollcall db roles` as the tables' owner")


def _source(conn: Connection, settings: Settings) -> Finding:
    held = source_of(conn)
    if held in (None, settings.source):
        return Finding("ok", "numbers", f"{held or 'none yet'}; this process reads {settings.source} ones")
    mend = "run `rollcall demo clear`" if held == "simulated" else "set DATABASE_URL to another database"
    said = f"the database holds {held} ones, this process would read {settings.source} ones, and they never mix"
    return Finding("fail", "numbers", said, mend)


def _partitions(conn: Connection, settings: Settings) -> Finding:
    """Look whether today and the range after it have partitions. Rows are kept without, too, and moved later."""
    if lacking := partitions.uncovered(conn, today=datetime.now(UTC).date(), months=settings.partition_months):
        said = f"none for {', '.join(map(str, lacking))}: rows of those days would wait in the default one"
        return Finding("warn", "partitions", said, "run `rollcall db partitions` as their owner, once a day")
    return Finding("ok", "partitions", "are there for today and the time after")


def _clock(conn: Connection) -> Finding:
    """Compare the clocks: leases and due times are written here and compared there."""
    asked_at = datetime.now(UTC)
    there = overview.clock(conn)
    answered_at = datetime.now(UTC)
    # The database said its time somewhere between question and answer.
    skew_s = max((asked_at - there).total_seconds(), (there - answered_at).total_seconds(), 0.0)
    said = f"{skew_s:.1f} s between here and the database"
    if skew_s < SKEW_WARN_S:
        return Finding("ok", "clock", said)
    return Finding("warn" if skew_s < SKEW_FAIL_S else "fail", "clock", said, "synchronise both by NTP")
