"""Strict lanes under load, on both brokers: a person waits for the platform's limit only, and retry is never starved."""

import json
import math
import random
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from db import keys
from db.engine import Engine, reading, transaction
from db.models import scrape_job
from tests.lanes import Stamping, handles, list_accounts
from tests.serving import Gunicorn, gunicorn, wait_for
from tests.system import System, system

INTERVAL_S = 0.2
ASKS = 24


@pytest.fixture
def platform() -> Stamping:
    return Stamping()


@pytest.fixture
def environ(broker_url: str) -> dict[str, str]:
    """Return settings by which everything that is due is queued, not only what the next seconds carry."""
    return {
        "BROKER_URL": broker_url,
        "RATE_LIMIT_BLUESKY_PROFILES": "5/s",
        "PLAN_AHEAD_S": "100",
        "JOB_LEASE_S": "600",
    }


@pytest.fixture
def processes(
    database_url: str, redis_url: str, tmp_path: Path, platform: Stamping, environ: dict[str, str]
) -> Iterator[System]:
    with system(database_url, redis_url, tmp_path / "logs", simulation=platform, **environ) as (running, _):
        yield running


@pytest.mark.parametrize("workers", [1, 3])
def test_a_person_s_job_starts_within_one_and_a_half_intervals_whatever_is_queued(
    processes: System,
    platform: Stamping,
    engine: Engine,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    workers: int,
) -> None:
    list_accounts(engine, of_core=10_000, not_due=ASKS)
    with transaction(engine) as conn:
        token = keys.create(conn, name="newsroom", scopes=["refresh"])
    processes.start("pipeline.beat")
    processes.wait(lambda: _queued(engine) == 400, within_s=60, what="10,000 accounts queued")
    for _ in range(workers):
        processes.worker("bluesky")
    processes.wait(lambda: len(platform.calls) > 5, within_s=30, what="a worker at work")
    waits, shown_after, pauses = [], [], random.Random(1)

    with gunicorn(database_url, redis_url, tmp_path, workers=1, **processes.environ) as api:
        for handle in handles("asked", ASKS):
            assert _followers(api, handle) is None  # kept by the API: what it shows next follows a purge
            _refresh(api, token, handle)
            accepted_at = time.monotonic()
            wait_for(lambda: platform.began(handle), f"the call for {handle}")  # noqa: B023
            began_at = platform.began(handle)
            assert began_at is not None
            wait_for(lambda: _followers(api, handle) is not None, f"the number of {handle}")  # noqa: B023
            waits.append(began_at - accepted_at)
            shown_after.append(time.monotonic() - began_at)
            time.sleep(pauses.uniform(0, INTERVAL_S))  # ask at any moment between two calls

    assert _queued(engine) > 100, "the sweep was over before the last ask"
    assert _p95(waits) <= 1.5 * INTERVAL_S, sorted(waits)
    assert _p95(shown_after) <= 1, sorted(shown_after)


def test_retry_gets_one_call_in_five_while_core_never_ends(
    processes: System, platform: Stamping, engine: Engine
) -> None:
    list_accounts(engine, of_core=2500, of_retry=1000)
    processes.start("pipeline.beat")
    processes.wait(lambda: _queued(engine) == 140, within_s=60, what="everything queued")
    processes.worker("bluesky")
    processes.wait(lambda: len(platform.calls) >= 60, within_s=60, what="60 calls")

    of_retry = sum("retry" in query for _, query in platform.calls[:60])
    assert 60 / 5 - 1 <= of_retry <= 60 * 2 / 3, "RabbitMQ serves both in turn, Redis core on four of five"


def _queued(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(scrape_job.c.state == "queued")) or 0


def _followers(api: Gunicorn, handle: str) -> int | None:
    """Return the newest number that the API shows."""
    shown: Any = api.json(f"/api/history/bluesky/{handle}")
    followers: int | None = shown["followers"][-1]
    return followers


def _refresh(api: Gunicorn, token: str, handle: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{api.port}/api/refresh",
        data=json.dumps({"accounts": [f"bluesky/{handle}"]}).encode(),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 202


def _p95(values: list[float]) -> float:
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
