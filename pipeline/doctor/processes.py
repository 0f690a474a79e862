"""Rollcall's own processes: a worker for each platform with accounts, beat, the recorder, the notifier, the API, Flower."""

from collections.abc import Iterator, Mapping

import urllib3
from urllib3.exceptions import HTTPError

from db import leases, server
from db.engine import Connection, DatabaseError, Engine, reading
from pipeline.app import make_celery
from pipeline.doctor.finding import Finding, Level
from pipeline.flower import Closed
from pipeline.flower import users as users_of_flower
from pipeline.platforms import Platform
from pipeline.settings import Settings

# A worker answers from its loop, which may wait this long for a Redis that doesn't.
ANSWER_S = 2.0
LEAST_PASSWORD = 12


def in_database(conn: Connection) -> Iterator[Finding]:
    """Look for those that show themselves in the database."""
    if server.sessions(conn).get("rollcall beat"):
        yield Finding("ok", "beat", "runs")
    else:
        yield Finding("fail", "beat", "doesn't run, so nothing is planned", "start it: `rollcall-beat.service`")
    if leases.is_held(conn, leases.RECORDER):
        yield Finding("ok", "recorder", "runs")
    else:
        said = "doesn't run, so metrics wait in the broker"
        yield Finding("warn", "recorder", said, "start it: `rollcall-recorder.service`")
    if leases.is_held(conn, leases.NOTIFIER):
        yield Finding("ok", "notifier", "runs")
    else:
        said = "doesn't run, so nobody is told what is wrong"
        yield Finding("warn", "notifier", said, "start it: `rollcall-notifier.service`")


def workers(settings: Settings, counts: Mapping[str, int], platforms: Mapping[str, Platform]) -> Iterator[Finding]:
    """Look whether each platform that has accounts and can be read has a worker that answers."""
    readable = [
        name for name in counts if name in platforms and platforms[name].calls and not settings.lacks(platforms[name])
    ]
    answering = _answering(settings) if readable else []
    for name in readable:
        count = answering.count(name)
        if count:
            yield Finding("ok", f"worker_{name}", f"{count} answer{'s' if count == 1 else ''}")
        else:
            mend = f"start it: `rollcall-worker@{name}.service`"
            yield Finding("fail", f"worker_{name}", "none answers, so nothing is read there", mend)


def _answering(settings: Settings) -> list[str]:
    """Return the platform of each worker that answers: they are called `x-4711@host`."""
    replies = make_celery(settings).control.ping(timeout=ANSWER_S)
    return [name.partition("@")[0].rpartition("-")[0] for reply in replies for name in reply]


def api(settings: Settings, engine: Engine) -> Iterator[Finding]:
    """Look whether the API answers here and can serve, or runs elsewhere."""
    address = f"http://{_reached_at(settings.bind)}:{settings.port}"
    try:
        answer = urllib3.request("GET", f"{address}/readyz", timeout=ANSWER_S * 2, retries=False)
        parts = answer.json() if answer.status in (200, 503) else {}
    except (HTTPError, ValueError) as exc:
        yield _unreached(address, exc, engine)
        return
    down = [name for name, state in parts.items() if state == "down"]
    if answer.status == 200 and not down:
        yield Finding("ok", "api", f"answers at {address}")
    elif down:
        level: Level = "fail" if answer.status != 200 else "warn"
        yield Finding(level, "api", f"answers at {address}, without {', '.join(down)}", "see what is said of those")
    else:
        mend = "something else has its PORT: choose another, or stop that"
        yield Finding("fail", "api", f"what answers at {address} isn't Rollcall's API ({answer.status})", mend)


def _reached_at(bind: str) -> str:
    """Return an address at which a server that listens there can be reached from here."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(bind, bind)  # noqa: S104  # compared, not bound
    return f"[{host}]" if ":" in host else host


def _unreached(address: str, exc: Exception, engine: Engine) -> Finding:
    try:
        with reading(engine) as conn:
            if server.sessions(conn).get("rollcall api"):
                return Finding("ok", "api", f"not at {address}, but it runs elsewhere")
    except DatabaseError:
        pass  # said already
    said = f"doesn't answer at {address} ({type(exc).__name__})"
    return Finding("fail", "api", said, "start it: `rollcall-api.service`, or correct BIND and PORT")


def flower(settings: Settings) -> Finding:
    if settings.flower_basic_auth is None:
        return Finding("warn", "flower", "stays closed", "set FLOWER_BASIC_AUTH=user:password, if you want it")
    try:
        users = users_of_flower(settings)
    except Closed as exc:
        return Finding("fail", "flower", str(exc), "write it as user:password")
    if any(len(password) < LEAST_PASSWORD or password == user for user, password in users):
        mend = "set one made by `openssl rand -hex 16`"
        return Finding("warn", "flower", f"its password has fewer than {LEAST_PASSWORD} characters", mend)
    return Finding("ok", "flower", "is behind a password")
