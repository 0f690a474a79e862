"""What the commands share: settings and a connection, faults as one line, the purge after a change."""

import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import structlog
from kombu.exceptions import OperationalError as BrokerError
from redis import Redis, RedisError

from db import overview, tags
from db.engine import DatabaseError, Engine, PoolTimeout, make_engine, reading
from pipeline import addresses, doctor, platforms, trail
from pipeline.app import make_celery
from pipeline.messages import Purger
from pipeline.settings import Settings, SettingsError, load_settings

_NOT_ALLOWED = "42501"
_MISSING_SCHEMA = ("42P01", "42703", "3F000")  # undefined table, column, schema


class Fault(click.ClickException):
    """What stands in the way, in one message for the person at the terminal."""


class Misuse(Fault):
    """The same, where the command can't mean anything: an unknown account, faulty settings."""

    exit_code = 2


class Rollcall(click.Group):
    """The commands. Faults of settings and servers become one line that names the setting, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingsError as exc:
            raise Misuse(str(exc)) from exc
        except DatabaseError as exc:
            code = getattr(exc.orig, "pgcode", None)
            if code in _MISSING_SCHEMA:
                raise Fault("The database's tables are missing or old: run `rollcall db upgrade`.") from exc
            if code == _NOT_ALLOWED:
                said = doctor.said_by_server(exc)
                raise Fault(f"The database refuses ({said}): use a DATABASE_URL of the tables' owner.") from exc
            if code is not None and not exc.connection_invalidated:
                raise  # the server answered, so the statement is at fault: our bug
            said = doctor.said_by_server(exc)
            raise Fault(f"The database can't be reached ({said}): start it or correct DATABASE_URL.") from exc
        except PoolTimeout as exc:
            raise Fault("The database gave no connection in time: raise DB_POOL_TIMEOUT or look at it.") from exc
        except (BrokerError, RedisError) as exc:
            raise Fault(f"Redis or the broker broke off ({type(exc).__name__}): see `rollcall doctor`.") from exc


as_json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")


class PlatformName(click.ParamType[str]):
    """A platform in any spelling, handed on as its name."""

    name = "platform"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return addresses.platform_called(value, platforms.load()).name
        except addresses.Unclear as exc:
            self.fail(str(exc), param, ctx)


@contextmanager
def opened() -> Iterator[tuple[Settings, Engine]]:
    """Lend the settings and an engine on the primary. What the block sends and logs bears an id of its own."""
    settings = load_settings()
    # Standard output is for results: what the pipeline logs goes to standard error, whichever that is by then.
    structlog.configure(logger_factory=lambda *_: structlog.PrintLogger(sys.stderr))
    try:
        engine = make_engine(settings.database_url.get_secret_value(), pool_size=1, application_name="rollcall cli")
    except ValueError:  # its text may quote a password with unescaped characters
        raise SettingsError("DATABASE_URL can't be taken apart: percent-encode special characters.") from None
    try:
        with trail.followed({trail.REQUEST_ID: trail.new_id("cli")}):
            yield settings, engine
    finally:
        engine.dispose()


def purge(settings: Settings, tags: frozenset[str]) -> None:
    """Tell the caches what changed. Without Redis there is no cache to tell."""
    with Redis.from_url(settings.redis_url.get_secret_value()) as redis:
        Purger(make_celery(settings), redis).purge(tags)


def purge_all(settings: Settings, engine: Engine) -> None:
    """Tell the caches that every account may have changed."""
    with reading(engine) as conn:
        listed = overview.keys_by_platform(conn)
    purge(settings, frozenset().union(*(tags.of_job(platform, keys) for platform, keys in listed.items())))


def user() -> str:
    """Return the name of who sits at the terminal."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"user {os.getuid()}"
