"""Nothing is lost and nothing is written twice: workers killed, brokers flushed, planners in pairs, messages twice."""

import json
import os
import signal
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from db.engine import Engine, reading
from db.models import fact_followers_snapshot, scrape_job, scrape_state
from deploy.simulator.server import Simulator
from pipeline.accounts import import_list
from pipeline.app import make_celery
from pipeline.messages import publish_jobs
from pipeline.records import Job
from tests.brokers import Broker
from tests.fakes import settings
from tests.system import System, system

LEASE_S = "3"


@pytest.fixture
def running(database_url: str, redis_url: str, broker: Broker, tmp_path: Path) -> Iterator[tuple[System, Simulator]]:
    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=broker.url, JOB_LEASE_S=LEASE_S) as both:
        yield both


def test_a_worker_killed_in_mid_job_costs_a_lease_and_no_reading(
    running: tuple[System, Simulator], engine: Engine
) -> None:
    processes, simulator = running
    _accounts(engine, 30)
    _fault(simulator, "latency", count=1, value=2.0)
    victim = processes.worker("bluesky")
    processes.start("pipeline.beat")
    processes.wait(lambda: _jobs(engine, "running"), within_s=20, what="a job under way")

    os.killpg(victim.pid, signal.SIGKILL)
    victim.wait()
    processes.worker("bluesky")

    _every_account_ends_with_one_snapshot(processes, engine, 30)


def test_a_broker_flushed_in_mid_sweep_loses_no_reading(
    running: tuple[System, Simulator], engine: Engine, broker: Broker
) -> None:
    processes, simulator = running
    _accounts(engine, 150)
    _fault(simulator, "latency", count=3, value=0.5)
    processes.worker("bluesky")
    processes.start("pipeline.beat")
    processes.wait(lambda: _jobs(engine, "succeeded"), within_s=20, what="a first job done")

    broker.clear()

    _every_account_ends_with_one_snapshot(processes, engine, 150)


def test_two_planners_give_no_account_out_twice(running: tuple[System, Simulator], engine: Engine) -> None:
    processes, _ = running
    _accounts(engine, 100)
    processes.start("pipeline.beat")
    processes.start("pipeline.beat")
    processes.worker("bluesky")

    _every_account_ends_with_one_snapshot(processes, engine, 100)

    with reading(engine) as conn:
        given = conn.scalar(
            select(func.sum(func.cardinality(scrape_job.c.accounts))).where(scrape_job.c.kind != "posts")
        )
    assert given == 100


def test_a_message_delivered_three_times_makes_one_call(
    running: tuple[System, Simulator], engine: Engine, database_url: str, redis_url: str, broker: Broker
) -> None:
    processes, simulator = running
    _accounts(engine, 5)
    processes.worker("bluesky")
    planner = processes.start("pipeline.beat")
    processes.wait(lambda: _jobs(engine, "succeeded"), within_s=20, what="the job done")
    planner.terminate()
    planner.wait()
    (job_id,) = _jobs(engine, "succeeded")
    calls = _requests(simulator)

    celery = make_celery(settings(database_url, redis_url, BROKER_URL=broker.url))
    again = Job(job_id=job_id, platform="bluesky", kind="profiles", lane="core")
    publish_jobs(celery, [again, again, again])
    # What is published behind them has its turn after them.
    _accounts(engine, 1, first=5)
    processes.start("pipeline.beat")
    _every_account_ends_with_one_snapshot(processes, engine, 6)

    assert _requests(simulator) - calls <= 1 + 6, "its call, and the posts of all, which were on their way"


def _accounts(engine: Engine, count: int, first: int = 0) -> None:
    rows = [f"bluesky,agency{n}.bsky.social" for n in range(first, first + count)]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": count}, report.rows


def _every_account_ends_with_one_snapshot(processes: System, engine: Engine, count: int) -> None:
    processes.wait(lambda: _read(engine) == count, within_s=45, what=f"{count} accounts read")
    with reading(engine) as conn:
        per_account = conn.execute(
            select(fact_followers_snapshot.c.account_key, func.count()).group_by(
                fact_followers_snapshot.c.account_key
            )
        ).all()
    assert [rows for _, rows in per_account] == [1] * count


def _read(engine: Engine) -> int:
    profile = scrape_state.c.subject == "profile"
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(profile, scrape_state.c.result == "ok")) or 0


def _jobs(engine: Engine, state: str) -> list[str]:
    wanted = select(scrape_job.c.job_id).where(scrape_job.c.state == state, scrape_job.c.kind == "profiles")
    with reading(engine) as conn:
        return list(conn.scalars(wanted))


def _fault(simulator: Simulator, kind: str, **more: Any) -> None:
    body = json.dumps({"platform": "bluesky", "kind": kind, **more}).encode()
    with urllib.request.urlopen(f"{simulator.url}/_simulator/faults", data=body) as answer:
        assert answer.status == 200


def _requests(simulator: Simulator) -> int:
    with urllib.request.urlopen(f"{simulator.url}/_simulator/state") as answer:
        return sum(json.load(answer)["requests"]["bluesky"].values())
