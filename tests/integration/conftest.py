"""The commands against real servers, and a worker that does what is queued."""

import threading
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta

import pytest
from click.testing import CliRunner, Result

from db import claims, writes
from db.engine import Engine, transaction
from db.models import scrape_job
from db.rows import Next, Profile
from pipeline.cli import main
from tests.commands import LIST


@pytest.fixture
def environ(database_url: str, redis_url: str) -> Mapping[str, str]:
    """Return the settings of a process whose platforms are all readable, so that nothing waits for a credential."""
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "SIMULATOR_URL": "http://127.0.0.1:9"}
    return {**given, "BROKER_URL": "", "X_BEARER_TOKEN": ""}  # whatever the developer has set


@pytest.fixture
def rollcall(environ, tmp_path, monkeypatch, flickr_unread) -> Callable[..., Result]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, stdin: str | None = None, **more: str) -> Result:
        result = CliRunner(env={**environ, **more}).invoke(main, arguments, input=stdin)
        assert isinstance(result.exception, SystemExit | None), result.exception
        return result

    return run


@pytest.fixture
def listed(rollcall) -> None:
    assert rollcall("accounts", "import", "-", stdin=LIST).exit_code == 0


@pytest.fixture
def worker(engine: Engine) -> Iterator[None]:
    """Run a worker's half of every queued job: accounts called `gander` are gone, all others read."""
    stop = threading.Event()
    thread = threading.Thread(target=lambda: _work(engine, stop))
    thread.start()
    yield
    stop.set()
    thread.join()


def _work(engine: Engine, stop: threading.Event) -> None:
    while not stop.wait(0.05):
        now = datetime.now(UTC)
        with transaction(engine) as conn:
            for job_id in conn.execute(scrape_job.select().where(scrape_job.c.state == "queued")).scalars().all():
                job = claims.take(conn, job_id=job_id, now=now, lease_until=now + timedelta(minutes=1))
                gone = [a for a in job.accounts if a.handle == "gander"]
                read = [a for a in job.accounts if a.handle != "gander"]
                due_at = now + timedelta(days=1)
                ok = [
                    Next(account_key=a.account_key, result="ok", reason=None, failures=0, due_at=due_at) for a in read
                ]
                lost = [
                    Next(account_key=a.account_key, result="gone", reason="not found", failures=1, due_at=due_at)
                    for a in gone
                ]
                profiles = [
                    Profile(account_key=a.account_key, external_id=f"id-{a.handle}", handle=a.handle, followers=7)
                    for a in read
                ]
                writes.save(conn, job, nexts=[*ok, *lost], profiles=profiles, source="simulated", now=now)
