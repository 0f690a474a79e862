"""A worker that makes no progress is replaced though its process is there; one that only waits is left alone."""

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import func, select

from db import migrate, pauses
from db.engine import Engine, make_engine, reading, transaction
from db.models import dim_account, fact_followers_snapshot
from db.pauses import Pause
from deploy.embedded import Postgres, Redis, start_postgres, start_redis
from tests import jobs
from tests.system import System, system

WATCHDOG_S = 3.0
# As the process manager of `./dev run` says it.
STARTED = re.compile(r"(\w+) *\| started \(pid (\d+)\)")
# Makes the first call hang for good, as none should.
HANGS = """
import os, threading
from pathlib import Path
from workers.platforms.bluesky import Bluesky

fetch, flag = Bluesky.fetch_profiles, Path(os.environ["HANG_ONCE"])

def fetch_or_hang(self, accounts, http):
    if flag.exists():
        flag.unlink()
        threading.Event().wait()
    return fetch(self, accounts, http)

Bluesky.fetch_profiles = fetch_or_hang
"""


@pytest.fixture
def processes(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[System]:
    environ = {"WATCHDOG_S": str(WATCHDOG_S), "HTTP_DEADLINE_S": "1", "JOB_LEASE_S": "5"}
    with system(database_url, redis_url, tmp_path / "logs", **environ) as (running, _):
        yield running


def test_a_worker_that_stands_still_is_replaced_and_the_sweep_ends(processes: System, engine: Engine) -> None:
    processes.start("deploy.processes", "worker_bluesky", "beat")
    _listed(engine, 30)
    processes.wait(lambda: _read(engine) == 30, within_s=30, what="the accounts read")

    os.killpg(_pids(processes, "worker_bluesky")[0], signal.SIGSTOP)
    _listed(engine, 30)

    processes.wait(lambda: len(_pids(processes, "worker_bluesky")) == 2, within_s=20, what="another worker")
    processes.wait(lambda: _read(engine) == 60, within_s=40, what="all accounts read")
    assert "made no progress for 3 s: it is killed" in processes.said()


def test_a_worker_whose_call_hangs_is_replaced_and_the_sweep_ends(
    processes: System, engine: Engine, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HANGS)
    (tmp_path / "once").touch()
    _listed(engine, 30)

    hook = {"PYTHONPATH": str(tmp_path), "HANG_ONCE": str(tmp_path / "once")}
    processes.start("deploy.processes", "worker_bluesky", "beat", **hook)

    processes.wait(lambda: len(_pids(processes, "worker_bluesky")) == 2, within_s=40, what="another worker")
    processes.wait(lambda: _read(engine) == 30, within_s=40, what="all accounts read")
    assert not (tmp_path / "once").exists()
    assert re.search(r"no_progress.*hangs=.?a call", processes.said())


@pytest.mark.parametrize("name", ["beat", "recorder"])
def test_planner_and_recorder_are_replaced_when_they_stand_still(processes: System, name: str) -> None:
    processes.start("deploy.processes", name)
    (pid,) = processes.wait(lambda: _pids(processes, name), within_s=10, what=f"{name} started")
    # Watched from its first word on, which comes with its first turn.
    _stays(processes, name, for_s=2 * WATCHDOG_S)

    os.killpg(pid, signal.SIGSTOP)

    processes.wait(lambda: len(_pids(processes, name)) == 2, within_s=20, what="it in its place again")


def test_a_worker_that_waits_for_a_limit_and_a_pause_is_left_alone(processes: System, engine: Engine) -> None:
    with transaction(engine) as conn:
        pauses.add(conn, Pause("x", "1", datetime(2100, 1, 1, tzinfo=UTC), "it said 429", "limited"))
        jobs.listed(conn, "agency", platform="x", now=datetime.now(UTC))
    _listed(engine, 60)
    slow = {"RATE_LIMIT_BLUESKY_PROFILES": "1/20m", "RATE_LIMIT_BLUESKY_POSTS": "1/20m"}
    processes.start("deploy.processes", "worker_bluesky", "worker_x", "beat", **slow)
    processes.wait(lambda: _read(engine) == 25, within_s=30, what="the one call that the limit gives")

    _stays(processes, "worker_bluesky", "worker_x", for_s=4 * WATCHDOG_S)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Yield a folder for servers: not below pytest's own, where PostgreSQL's user isn't let in."""
    with tempfile.TemporaryDirectory(prefix="rollcall-tests-") as made:
        Path(made).chmod(0o755)
        yield Path(made)


@pytest.mark.parametrize("gone", ["redis", "postgres"])
def test_a_worker_without_its_servers_is_left_alone_and_goes_on_when_they_are_back(
    folder: Path, tmp_path: Path, gone: str
) -> None:
    start: dict[str, Callable[[], Redis | Postgres]] = {
        "redis": lambda: start_redis(folder / "redis"),
        "postgres": lambda: start_postgres(folder / "postgres"),
    }
    servers = {name: make() for name, make in start.items()}
    database_url = servers["postgres"].url.replace("postgresql://", "postgresql+psycopg2://")
    migrate.upgrade(database_url)
    engine = make_engine(database_url)
    environ = {"WATCHDOG_S": str(WATCHDOG_S), "HTTP_DEADLINE_S": "1", "JOB_LEASE_S": "5"}
    try:
        with system(database_url, servers["redis"].url, tmp_path / "logs", **environ) as (processes, _):
            processes.start("deploy.processes", "worker_bluesky", "beat", "recorder")
            _listed(engine, 30)
            processes.wait(lambda: _read(engine) == 30, within_s=40, what="the accounts read")

            servers[gone].stop()
            engine.dispose()
            _stays(processes, "worker_bluesky", "beat", "recorder", for_s=10 * WATCHDOG_S)
            servers[gone] = start[gone]()

            _listed(engine, 30)
            processes.wait(lambda: _read(engine) == 60, within_s=60, what="all accounts read")
            _stays(processes, "worker_bluesky", "beat", "recorder", for_s=0)
    finally:
        engine.dispose()
        for server in servers.values():
            server.stop()


def _pids(processes: System, name: str) -> list[int]:
    """Return the process ids that a process of the Procfile has had."""
    return [int(pid) for named, pid in STARTED.findall(processes.said()) if named == name]


def _stays(processes: System, *names: str, for_s: float) -> None:
    """See for a time that no process is replaced."""
    until = time.monotonic() + for_s
    processes.wait(lambda: time.monotonic() >= until, within_s=for_s + 5, what="time passed")
    for name in names:
        assert len(_pids(processes, name)) == 1, processes.said()


def _listed(engine: Engine, count: int) -> None:
    with transaction(engine) as conn:
        known = conn.scalar(select(func.count()).select_from(dim_account)) or 0
        handles = [f"agency{known + n}.bsky.social" for n in range(count)]
        jobs.listed(conn, *handles, platform="bluesky", now=datetime.now(UTC))


def _read(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).select_from(fact_followers_snapshot)) or 0
