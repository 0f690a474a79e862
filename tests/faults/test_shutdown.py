"""A worker that stops loses nothing and keeps nobody waiting: by SIGTERM, in a rolling deploy, by `rollcall drain`."""

import json
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from redis import Redis
from sqlalchemy import func, select

from db.engine import Engine, reading, transaction
from db.models import fact_followers_snapshot, scrape_job
from deploy.embedded import start_redis
from deploy.simulator.server import Simulator
from pipeline.app import make_celery
from pipeline.messages import publish_jobs
from pipeline.settings import Settings
from tests import jobs
from tests.fakes import settings
from tests.system import HERE, System, system

# One call, and the next two near enough to be held until then.
ONE_CALL = {"RATE_LIMIT_BLUESKY_PROFILES": "1/14s"}
NO_LIMIT = {"RATE_LIMIT_BLUESKY_PROFILES": "1000/s"}


@pytest.fixture
def running(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[tuple[System, Simulator]]:
    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=broker_url) as both:
        yield both


@pytest.fixture
def waiting(running: tuple[System, Simulator]) -> Iterator[Callable[[], int]]:
    """Yield what counts the core messages that wait in the broker, with no worker."""
    with Connection(_settings(running[0]).broker) as connection:

        def count() -> int:
            with connection.channel() as channel, suppress(connection.channel_errors):  # Redis has no empty queue
                return int(channel.queue_declare("bluesky.core", passive=True).message_count)
            return 0

        yield count


def test_a_worker_told_to_stop_hands_back_what_it_holds_at_once_and_finishes_its_call(
    running: tuple[System, Simulator], engine: Engine, waiting: Callable[[], int]
) -> None:
    processes, simulator = running
    _slow_answer(simulator, seconds=4)
    first = _ready_worker(processes, **ONE_CALL)
    _give_out(processes, engine, calls=3)
    processes.wait(lambda: _states(engine).get("running") == 1 and waiting() == 0, within_s=20, what="two held")

    first.terminate()

    processes.wait(lambda: waiting() == 2, within_s=3, what="the held messages back in the broker")
    assert _states(engine) == {"running": 1, "queued": 2}, "handed back before the call's end"
    assert first.wait(15) == 0
    assert _states(engine) == {"succeeded": 1, "queued": 2}
    assert waiting() == 2

    _forget_limits(processes)
    processes.worker("bluesky", **NO_LIMIT)
    # Their leases end two minutes later.
    processes.wait(lambda: _states(engine) == {"succeeded": 3}, within_s=20, what="the held jobs done by another")
    assert _calls(simulator) == 3
    processes.wait(lambda: waiting() == 0, within_s=5, what="every message gone")


def test_no_message_is_lost_that_arrives_while_an_idle_worker_stops(
    running: tuple[System, Simulator], engine: Engine, waiting: Callable[[], int]
) -> None:
    processes, _ = running
    worker = _ready_worker(processes, **NO_LIMIT)
    _give_out(processes, engine, calls=1)
    processes.wait(lambda: _states(engine) == {"succeeded": 1}, within_s=20, what="a worker that works")

    worker.terminate()
    given = 1
    while worker.poll() is None:
        _give_out(processes, engine, calls=1)
        given += 1

    assert worker.returncode == 0
    assert waiting() == given - _states(engine)["succeeded"]


def test_a_worker_told_twice_stops_at_once(running: tuple[System, Simulator], engine: Engine) -> None:
    processes, simulator = running
    _slow_answer(simulator, seconds=25)
    worker = _ready_worker(processes)
    _give_out(processes, engine, calls=1)
    processes.wait(lambda: _states(engine).get("running"), within_s=20, what="a call under way")

    worker.terminate()
    processes.wait(lambda: "stopping" in processes.said(), within_s=5, what="the worker stopping")
    assert worker.poll() is None, "it waits for its call"
    worker.terminate()

    assert worker.wait(5) == 1
    assert "stopped_hard" in processes.said()


def test_a_rolling_deploy_in_mid_sweep_loses_nothing_repeats_nothing_and_waits_for_no_lease(
    running: tuple[System, Simulator], engine: Engine
) -> None:
    processes, simulator = running
    limit = {"RATE_LIMIT_BLUESKY_PROFILES": "5/s", "RATE_LIMIT_BLUESKY_POSTS": "1/h"}
    with transaction(engine) as conn:
        jobs.listed(conn, *(f"agency{n}.bsky.social" for n in range(1500)), platform="bluesky", now=datetime.now(UTC))
    olds = [processes.worker("bluesky", **limit) for _ in range(2)]
    processes.start("pipeline.beat", **limit)
    processes.wait(lambda: _states(engine).get("succeeded", 0) >= 5, within_s=30, what="a sweep under way")

    for old in olds:
        old.terminate()
        assert old.wait(15) == 0
        processes.worker("bluesky", **limit)

    processes.wait(lambda: _snapshots(engine) == [1] * 1500, within_s=60, what="the sweep done")
    with reading(engine) as conn:
        done = list(conn.scalars(select(scrape_job.c.finished_at).where(_PROFILES).order_by("finished_at")))
    # A lease is two minutes, a start some seconds; and one worker was there all the time.
    assert max(later - earlier for earlier, later in pairwise(done)).total_seconds() < 10
    assert _calls(simulator) == 1500 / 25


def test_drain_lets_a_platforms_workers_finish_and_leaves_the_others_alone(
    running: tuple[System, Simulator], engine: Engine, waiting: Callable[[], int]
) -> None:
    processes, simulator = running
    _slow_answer(simulator, seconds=4)
    drained = _ready_worker(processes, **ONE_CALL)
    other = processes.worker("x")
    processes.wait(lambda: processes.said().count(" ready.") == 2, within_s=20, what="another platform's worker")
    _give_out(processes, engine, calls=3)
    processes.wait(lambda: _states(engine).get("running") == 1 and waiting() == 0, within_s=20, what="two held")

    done = _drain(processes, "bluesky", "--wait")

    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith("bluesky-") and line.endswith("\tstopped")
    assert drained.wait(5) == 0
    assert other.poll() is None
    assert _states(engine) == {"succeeded": 1, "queued": 2}
    assert waiting() == 2
    assert _calls(simulator) == 1


def test_drain_names_who_did_not_stop_in_time(running: tuple[System, Simulator], engine: Engine) -> None:
    processes, simulator = running
    _slow_answer(simulator, seconds=25)
    worker = _ready_worker(processes)
    _give_out(processes, engine, calls=1)
    processes.wait(lambda: _states(engine).get("running"), within_s=20, what="a call under way")

    done = _drain(processes, "--wait", "--json", HTTP_DEADLINE_S="1")

    assert done.returncode == 1
    ((name, state),) = json.loads(done.stdout)["workers"].items()
    assert (name.partition("-")[0], state) == ("bluesky", "still there")
    assert name in done.stderr
    worker.kill()


def test_drain_says_when_no_worker_answers(running: tuple[System, Simulator]) -> None:
    processes, _ = running

    done = _drain(processes)

    assert done.returncode == 1
    assert "No worker answered" in done.stderr
    assert _drain(processes, "myspace").returncode == 2


def test_a_drained_worker_is_not_started_again_by_its_manager(running: tuple[System, Simulator]) -> None:
    processes, _ = running
    manager = processes.start("deploy.processes", "worker_bluesky")
    processes.wait(lambda: " ready." in processes.said(), within_s=20, what="a worker that is ready")

    assert _drain(processes, "--wait").returncode == 0

    processes.wait(lambda: "stays down until the next start" in processes.said(), within_s=5, what="word of it")
    assert processes.said().count("started (pid") == 1
    assert manager.poll() is None
    manager.terminate()
    assert manager.wait(10) == 0


def test_a_worker_that_has_lost_its_broker_stops_as_well(database_url: str, tmp_path: Path) -> None:
    broker = start_redis(tmp_path / "redis")
    with system(database_url, broker.url, tmp_path / "logs", BROKER_URL=broker.url) as (processes, _):
        worker = _ready_worker(processes)
        broker.stop()
        processes.wait(lambda: "Cannot connect to" in processes.said(), within_s=20, what="the worker without it")

        worker.terminate()

        assert worker.wait(10) == 0


_PROFILES = (scrape_job.c.platform == "bluesky") & (scrape_job.c.kind == "profiles")


def _ready_worker(processes: System, **environ: str) -> subprocess.Popen[bytes]:
    """Start the test's first worker; return it once its queues are there."""
    worker = processes.worker("bluesky", **environ)
    processes.wait(lambda: " ready." in processes.said(), within_s=20, what="a worker that is ready")
    return worker


def _drain(processes: System, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "drain", *arguments],
        cwd=HERE,
        env={**processes.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _give_out(processes: System, engine: Engine, *, calls: int) -> None:
    """Claim and publish jobs of one account each, as the planner does."""
    now = datetime.now(UTC)
    claimed = []
    with transaction(engine) as conn:
        for _ in range(calls):
            jobs.listed(conn, f"{uuid.uuid4().hex}.bsky.social", platform="bluesky", now=now)
            claimed.append(jobs.claimed(conn, platform="bluesky", now=now))
    publish_jobs(make_celery(_settings(processes)), claimed)


def _settings(processes: System) -> Settings:
    environ = processes.environ
    return settings(environ["DATABASE_URL"], environ["REDIS_URL"], BROKER_URL=environ["BROKER_URL"])


def _states(engine: Engine) -> dict[str, int]:
    counted = select(scrape_job.c.state, func.count()).where(_PROFILES).group_by(scrape_job.c.state)
    with reading(engine) as conn:
        return dict(conn.execute(counted).all())


def _snapshots(engine: Engine) -> list[int]:
    """Return how many rows each account has."""
    table = fact_followers_snapshot
    per_account = select(func.count()).select_from(table).group_by(table.c.account_key)
    with reading(engine) as conn:
        return list(conn.scalars(per_account))


def _forget_limits(processes: System) -> None:
    with Redis.from_url(processes.environ["REDIS_URL"]) as redis:
        redis.delete(*redis.keys("rollcall:allowance:*"))


def _slow_answer(simulator: Simulator, *, seconds: float) -> None:
    body = json.dumps({"platform": "bluesky", "kind": "latency", "count": 1, "value": seconds}).encode()
    with urllib.request.urlopen(f"{simulator.url}/_simulator/faults", data=body) as answer:
        assert answer.status == 200


def _calls(simulator: Simulator) -> int:
    with urllib.request.urlopen(f"{simulator.url}/_simulator/state") as answer:
        requests: dict[str, Any] = json.load(answer)["requests"]["bluesky"]
    return int(requests["getProfiles"])
