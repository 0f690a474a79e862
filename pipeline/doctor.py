"""Look at everything that Rollcall needs to run, and say how to mend what is wrong. Nothing is changed."""

import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from kombu.exceptions import OperationalError as BrokerError
from msgspec import Struct
from redis import Redis, RedisError

from db import migrate, overview, reads
from db.dataset import source_of
from db.engine import DatabaseError, Engine, reading
from pipeline.app import make_celery
from pipeline.platforms import Platform
from pipeline.settings import Settings

Level = Literal["ok", "warn", "fail"]

SKEW_WARN_S = 2.0
SKEW_FAIL_S = 60.0
DISK_WARN_BYTES = 2 * 1024**3
DISK_FAIL_BYTES = 200 * 1024**2
_CONNECT_S = 3.0


class Finding(Struct, frozen=True):
    """One line of the examination; `mend` says what to do about anything that isn't ok."""

    level: Level
    what: str
    said: str
    mend: str | None = None


def examine(settings: Settings, engine: Engine, platforms: Mapping[str, Platform]) -> Iterator[Finding]:
    """Yield findings in the order in which they are worth mending."""
    yield Finding("ok", "settings", "are complete and well-formed")
    counts: Mapping[str, int] = {}
    database = _database(engine)
    yield database
    if database.level == "ok":
        schema = _schema(engine)
        yield schema
        yield _clock(engine)
        if schema.level == "ok":
            yield _source(engine, settings)
            with reading(engine) as conn:
                counts = overview.account_counts(conn)
    yield from _redis(settings)
    if settings.broker_url:
        yield broker(settings)
    for name, accounts in counts.items():
        yield _platform(name, accounts, settings, platforms)
    yield from _base_urls(settings, platforms)
    yield _disk(Path.cwd())


def _database(engine: Engine) -> Finding:
    try:
        with reading(engine) as conn:
            reads.alive(conn)
    except DatabaseError as exc:
        return Finding("fail", "database", said_by_server(exc), "start PostgreSQL or correct DATABASE_URL")
    return Finding("ok", "database", "answers")


def _schema(engine: Engine) -> Finding:
    if migrate.is_current(engine):
        return Finding("ok", "schema", "is the newest")
    return Finding("fail", "schema", "is not the newest", "run `rollcall db upgrade`")


def _source(engine: Engine, settings: Settings) -> Finding:
    with reading(engine) as conn:
        held = source_of(conn)
    if held in (None, settings.source):
        return Finding("ok", "numbers", f"{held or 'none yet'}; this process reads {settings.source} ones")
    mend = "run `rollcall demo clear`" if held == "simulated" else "set DATABASE_URL to another database"
    said = f"the database holds {held} ones, this process would read {settings.source} ones, and they never mix"
    return Finding("fail", "numbers", said, mend)


def _clock(engine: Engine) -> Finding:
    """Compare the clocks: leases and due times are written here and compared there."""
    with reading(engine) as conn:
        asked_at = datetime.now(UTC)
        there = overview.clock(conn)
        answered_at = datetime.now(UTC)
    # The database said its time somewhere between question and answer.
    skew_s = max((asked_at - there).total_seconds(), (there - answered_at).total_seconds(), 0.0)
    said = f"{skew_s:.1f} s between here and the database"
    if skew_s < SKEW_WARN_S:
        return Finding("ok", "clock", said)
    return Finding("warn" if skew_s < SKEW_FAIL_S else "fail", "clock", said, "synchronise both by NTP")


def _redis(settings: Settings) -> Iterator[Finding]:
    url = settings.redis_url.get_secret_value()
    with Redis.from_url(url, socket_timeout=_CONNECT_S, socket_connect_timeout=_CONNECT_S) as client:
        try:
            client.ping()
        except RedisError as exc:
            yield Finding("fail", "redis", _brief(exc), "start Redis or correct REDIS_URL")
            return
        yield Finding("ok", "redis", "answers")
        if not settings.broker_url:
            yield from _durability(client)


def _durability(client: Redis) -> Iterator[Finding]:
    """Look whether the broker keeps its messages. The database outlives their loss, but it costs a lease's time."""
    try:
        kept = client.config_get("appendonly")["appendonly"] == "yes"
        policy = client.config_get("maxmemory-policy")["maxmemory-policy"]
    except (RedisError, KeyError):
        yield Finding("warn", "redis keeps", "can't be asked: the server hides its configuration", "see its console")
        return
    if not kept:
        yield Finding("warn", "redis keeps", "messages are lost at a restart", "set `appendonly yes` in redis.conf")
    if policy != "noeviction":
        mend = "set `maxmemory-policy noeviction` in redis.conf"
        yield Finding("warn", "redis keeps", f"messages may be dropped when memory is full ({policy})", mend)
    if kept and policy == "noeviction":
        yield Finding("ok", "redis keeps", "messages over a restart, none dropped")


def broker(settings: Settings) -> Finding:
    """Look whether the message broker takes connections, within some seconds."""
    try:
        with make_celery(settings).connection_for_write() as connection:
            connection.ensure_connection(max_retries=1, timeout=_CONNECT_S)
    except (BrokerError, OSError, ValueError, KeyError) as exc:
        return Finding(
            "fail",
            "broker",
            _brief(exc),
            f"start it or correct {'BROKER_URL' if settings.broker_url else 'REDIS_URL'}",
        )
    return Finding("ok", "broker", "answers")


def _platform(name: str, accounts: int, settings: Settings, platforms: Mapping[str, Platform]) -> Finding:
    platform, count = platforms.get(name), f"{accounts} account{'s' if accounts > 1 else ''}"
    if platform is None:
        return Finding("fail", name, f"{count}, but nothing installed knows this platform", "install it")
    if not platform.calls:
        return Finding("warn", name, f"{count}, no reader yet", "they stay in the list without numbers")
    if lacking := settings.lacks(platform):
        return Finding("warn", name, f"{count} waiting for a credential", f"set {' and '.join(lacking)}")
    # The host alone: an address may carry a proxy's password.
    return Finding("ok", name, f"{count}, read from {urlsplit(settings.base_url(platform)).hostname}")


def _base_urls(settings: Settings, platforms: Mapping[str, Platform]) -> Iterator[Finding]:
    """Yield the base URLs that can't be right."""
    for platform in platforms.values():
        parts = urlsplit(settings.base_url(platform))
        if parts.scheme not in ("http", "https") or not parts.netloc:
            setting = "SIMULATOR_URL" if settings.simulator_url else f"{platform.name.upper()}_BASE_URL"
            yield Finding("fail", platform.name, f"{setting} is not an address", f"write {setting} as https://host")


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    said = f"{free / 1024**3:.1f} GiB free here"
    if free >= DISK_WARN_BYTES:
        return Finding("ok", "disk", said)
    return Finding("warn" if free >= DISK_FAIL_BYTES else "fail", "disk", said, "make room: the servers stop without")


def said_by_server(exc: DatabaseError) -> str:
    """Return the last part of a connection error: what comes before may quote the address, password and all."""
    return _brief(exc.orig or exc)


def _brief(exc: BaseException) -> str:
    lines = str(exc).strip().splitlines() or [type(exc).__name__]
    return lines[0].rpartition(": ")[2].strip()
