"""The schema is upgraded while the API serves and jobs are saved: nobody fails, nobody waits long.

A deploy upgrades the schema first, so what serves meanwhile is older code. There is none here: the newer one stands for
it, with the requests that the older schema can answer.
"""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from sqlalchemy import text

from db import migrate, reads
from db.engine import DatabaseError, Engine, reading, transaction
from tests.fakes import NOON
from tests.jobs import listed
from tests.serving import gunicorn, keep, wait_for

OLD = "0004"
# A second for a lock that isn't to be had, and as much for a machine that is busy.
LONGEST_S = migrate.LOCK_WAIT_S + 1.0


@pytest.fixture
def old(engine: Engine) -> Engine:
    """Return an engine on a filled database of an older revision."""
    with transaction(engine) as conn:
        for key in listed(conn, *(f"goose{n}" for n in range(20))):
            for back in range(3):
                keep(conn, key, 100 + back, NOON.date() - timedelta(days=back))
        command.downgrade(migrate._config(conn), OLD)
    return engine


class Asking:
    """Requests and reads of history, one after the other; how many there were, and how long the longest took."""

    def __init__(self) -> None:
        self.answers = 0
        self.longest_s = 0.0
        self.failures: list[str] = []


@contextmanager
def asking(engine: Engine, get) -> Iterator[Asking]:
    found, stop = Asking(), threading.Event()

    def ask() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            began = time.monotonic()
            status, _, body = get(f"/api/summary?per_page={number % 900 + 1}&q={number}")  # in no cache
            if status != 200:
                found.failures.append(f"{status} {body!r}")
            with reading(engine) as conn:
                reads.days(conn, 1, NOON.date() - timedelta(days=9), NOON.date())
            found.longest_s = max(found.longest_s, time.monotonic() - began)
            found.answers += 1

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask)
        try:
            wait_for(lambda: found.answers or running.done(), "the first answer")
            yield found
        finally:
            stop.set()
        running.result()


def _upgrading(pool: ThreadPoolExecutor, engine: Engine):
    return pool.submit(migrate.upgrade, engine.url.render_as_string(hide_password=False))


def _revision(engine: Engine) -> str:
    with reading(engine) as conn:
        return str(conn.scalar(text("SELECT version_num FROM alembic_version")))


def _is_kept_waiting(engine: Engine) -> bool:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rollcall migrate'"
        " AND datname = current_database() AND wait_event_type = 'Lock'"
    )
    with reading(engine) as conn:
        return bool(conn.scalar(waiting))


def test_no_request_fails_or_waits_long_while_the_schema_is_upgraded(
    old: Engine, redis_url: str, tmp_path: Path
) -> None:
    url = old.url.render_as_string(hide_password=False)
    with gunicorn(url, redis_url, tmp_path) as api, asking(old, api.get) as asked:
        before = asked.answers
        migrate.upgrade(url)
        wait_for(lambda: asked.answers > before + 5, "answers from the new schema")

    assert migrate.is_current(old)
    assert asked.failures == []
    assert asked.longest_s < LONGEST_S


def test_readers_go_first_while_a_long_read_keeps_the_upgrade_waiting(
    old: Engine, redis_url: str, tmp_path: Path
) -> None:
    """A lock that waits stops everybody behind it: it is let go, and asked for again."""
    url = old.url.render_as_string(hide_password=False)
    with gunicorn(url, redis_url, tmp_path) as api, asking(old, api.get) as asked, ThreadPoolExecutor(1) as pool:
        with transaction(old) as export:
            export.execute(text("SELECT count(*) FROM fact_followers_snapshot"))
            upgrading = _upgrading(pool, old)
            for _ in range(2):
                wait_for(lambda: _is_kept_waiting(old), "the upgrade to wait")
                wanted = asked.answers + 3
                wait_for(lambda wanted=wanted: asked.answers > wanted, "answers meanwhile")
            assert not upgrading.done()
        upgrading.result(30)

    assert migrate.is_current(old)
    assert asked.failures == []
    assert asked.longest_s < LONGEST_S


def test_what_a_revision_locks_is_free_before_the_next_begins(old: Engine) -> None:
    with ThreadPoolExecutor(1) as pool:
        with transaction(old) as writer:
            writer.execute(text("UPDATE dim_account SET bio = 'at work'"))  # 0006 makes triggers there
            upgrading = _upgrading(pool, old)
            wait_for(lambda: _revision(old) == "0005" and _is_kept_waiting(old), "0006 to wait")
            with transaction(old) as other:
                other.execute(text("SET LOCAL lock_timeout = '100ms'"))
                other.execute(text("LOCK fact_followers_snapshot IN ROW EXCLUSIVE MODE"))  # 0005 added a column
        upgrading.result(30)
    assert migrate.is_current(old)


def test_an_upgrade_that_gives_up_leaves_the_last_revision_and_goes_on_from_there(
    old: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = old.url.render_as_string(hide_password=False)
    monkeypatch.setattr(migrate, "PATIENCE_S", 0)
    with transaction(old) as writer:
        writer.execute(text("UPDATE dim_account SET bio = 'at work'"))
        with pytest.raises(DatabaseError, match="lock timeout"):
            migrate.upgrade(url)
    assert _revision(old) == "0005"

    migrate.upgrade(url)

    assert migrate.is_current(old)
