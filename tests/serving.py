"""The API for tests: in this process, or as real gunicorn workers behind a socket; and rows for it to show."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any

import redis as sync_redis
from falcon.testing import ASGIConductor, Result
from sqlalchemy import Connection, delete, insert

from api.app import create_app
from api.cache import shared
from db.engine import Engine, make_engine
from db.models import (
    account_handle,
    account_latest,
    dim_account,
    fact_followers_snapshot,
    fact_social_post,
    scrape_job,
    scrape_state,
)
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.messages import Purger
from pipeline.settings import Settings

PATIENCE_S = 60.0


def wait_for(condition: Callable[[], Any], what: str, within_s: float = PATIENCE_S) -> None:
    """Return as soon as the condition holds; fail when it doesn't in time."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"waited {within_s} s in vain for {what}"
        time.sleep(0.01)


class InProcess:
    """The app with its lifespan, on a loop of its own thread; no socket between."""

    def __init__(self, settings: Settings, replica: Engine | None = None, **engine_options: Any) -> None:
        self.engine = make_engine(settings.database_url.get_secret_value(), **engine_options)
        enqueue = Enqueuer(settings, self.engine, make_celery(settings))
        url = settings.redis_url.get_secret_value()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.app = create_app(settings, self.engine, shared.connect(url), enqueue, replica=replica)
        self._conductor = ASGIConductor(self.app)
        self._do(self._conductor.__aenter__())

    def get(self, path: str, **headers: str) -> Result:
        """Ask for a path with its query; `If_None_Match="…"` is the header If-None-Match."""
        return self.ask("GET", path, **headers)

    def ask(self, method: str, path: str, body: bytes | str = b"", **headers: str) -> Result:
        path, _, query = path.partition("?")
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        result: Result = self._do(
            self._conductor.simulate_request(method, path, query_string=query, headers=given, body=body)
        )
        return result

    def wait_until_it_hears_purges(self) -> None:
        wait_for(lambda: self.get("/readyz").json["purge_listener"] == "ok", "the purge listener")

    def close(self) -> None:
        """End the process, as it were; a second time does nothing."""
        if self._loop.is_closed():
            return
        self._do(self._conductor.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE_S * 2)


@contextmanager
def in_process(settings: Settings, replica: Engine | None = None, **engine_options: Any) -> Iterator[InProcess]:
    api = InProcess(settings, replica, **engine_options)
    try:
        yield api
    finally:
        api.close()


class Gunicorn:
    """Real gunicorn workers; each can be asked by itself."""

    def __init__(self, process: "subprocess.Popen[Any]", port: int) -> None:
        self.process = process
        self.port = port

    @property
    def workers(self) -> list[int]:
        return [
            int(pid) for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        ]

    def get(self, path: str, worker: int | None = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body. A worker is asked by itself while the others are held."""
        others = [pid for pid in self.workers if worker is not None and pid != worker]
        for pid in others:
            with suppress(ProcessLookupError):  # a killed one may have gone meanwhile
                os.kill(pid, signal.SIGSTOP)
        try:
            given = {name.replace("_", "-"): value for name, value in headers.items()} | {"Connection": "close"}
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=given)
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, dict(error.headers), error.read()
        finally:
            for pid in others:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def json(self, path: str, worker: int | None = None) -> Any:
        return json.loads(self.get(path, worker)[2])


@contextmanager
def gunicorn(
    database_url: str,
    redis_url: str,
    folder: Path,
    *,
    workers: int = 2,
    run: Sequence[str] = ("-m", "api"),
    port: int | None = None,
    **environ: str,
) -> Iterator[Gunicorn]:
    """Run `python -m api`, or what stands in for it, until the block ends; every worker hears purges when it begins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = port or int(free.getsockname()[1])
    given = {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "PORT": str(port), "WEB_CONCURRENCY": str(workers)}
    inherited = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    root = Path(__file__).resolve().parent.parent
    with (folder / "api.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *run],
            cwd=folder,
            env={**inherited, "PYTHONPATH": str(root), "PYTHONWARNINGS": "error", **given, **environ},
            stdout=log,
            stderr=log,
        )
    server = Gunicorn(process, port)
    try:
        wait_for(lambda: _all_hear(server, workers), f"gunicorn; see {folder / 'api.log'}", 120)
        yield server
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


def _all_hear(server: Gunicorn, workers: int) -> bool:
    assert server.process.poll() is None, "gunicorn ended"
    if len(server.workers) < workers:
        return False
    try:
        return all(server.json("/readyz", pid).get("purge_listener") == "ok" for pid in server.workers)
    except OSError:
        return False


def words(api: InProcess, path: str, **headers: str) -> str:
    """Return the text of a page, as it is read: what stands in its `main`, with single spaces."""
    answer = api.get(path, **headers)
    assert answer.status_code == 200, answer.text
    body = answer.text.partition("<main")[2].partition(">")[2].partition("</main>")[0]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", body)).split())


def purger(settings: Settings) -> Purger:
    """Return what a worker purges with."""
    return Purger(make_celery(settings), sync_redis.Redis.from_url(settings.redis_url.get_secret_value()))


def add_account(conn: Connection, name: str, **facts: Any) -> int:
    """Add `platform/handle[@host]`; facts are columns of dim_account. It has not been read."""
    platform, _, handle = name.partition("/")
    handle, _, host = handle.partition("@")
    values = {"platform": platform, "handle": handle, "host": host, "url": f"https://{platform}.example/{handle}"}
    key = conn.execute(insert(dim_account).values(**values | facts).returning(dim_account.c.account_key)).scalar_one()
    conn.execute(insert(account_handle).values(account_key=key, handle=handle))
    state = {"platform": platform, "host": host, "kind": "profiles", "next_due_at": datetime.now(UTC)}
    conn.execute(insert(scrape_state).values(account_key=key, subject="profile", **state))
    return int(key)


def stand(conn: Connection, key: int, **state: Any) -> None:
    """Set columns of an account's scrape_state."""
    conn.execute(scrape_state.update().where(scrape_state.c.account_key == key).values(**state))


def keep(conn: Connection, key: int, followers: int | None, day: date | None = None, **counts: Any) -> None:
    """Keep a snapshot (today's by default), make it the latest, and the account fresh."""
    now = datetime.now(UTC)
    day = day or now.date()
    kept = {
        "account_key": key,
        "snapshot_date": day,
        "followers": followers,
        "captured_at": datetime(day.year, day.month, day.day, 6, tzinfo=UTC),
        "source": "live",
        "precision": "exact",
        **counts,
    }
    snapshot = {name: value for name, value in kept.items() if not name.startswith("delta")}
    for table, row in ((fact_followers_snapshot, snapshot), (account_latest, kept)):
        same = table.c.account_key == key
        if table is fact_followers_snapshot:
            same &= table.c.snapshot_date == day
        conn.execute(delete(table).where(same))
        conn.execute(insert(table).values(**row))
    stand(conn, key, result="ok", reason=None, last_attempt_at=now, last_success_at=now)


def add_post(conn: Connection, key: int, post_id: str, **facts: Any) -> None:
    """Keep a post of an account, published and read now; facts are columns of fact_social_post."""
    now = datetime.now(UTC)
    said = {"url": f"https://x.example/{post_id}", "published_at": now, "post_type": "post", "text": "Words"}
    conn.execute(
        insert(fact_social_post).values(
            **{"account_key": key, "post_id": post_id, "read_at": now, "source": "live", **said, **facts}
        )
    )


def add_job(conn: Connection, job_id: str, **facts: Any) -> None:
    """Keep a job that succeeded; facts are columns of scrape_job."""
    now = datetime.now(UTC)
    job = {"platform": "x", "kind": "profiles", "lane": "core", "state": "succeeded", "accounts": []}
    conn.execute(
        insert(scrape_job).values(**{"job_id": job_id, "lease_until": now, "created_at": now, **job, **facts})
    )


def days_ago(number: int) -> date:
    return datetime.now(UTC).date() - timedelta(days=number)


def items(answer: Mapping[str, Any]) -> list[str]:
    """Return the names in a list's answer."""
    return [f"{item['platform']}/{item['handle']}" for item in answer["items"]]
