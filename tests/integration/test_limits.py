"""A limit is held by one worker or many, and a person's request goes ahead of whatever is queued."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from pytest_httpserver import HTTPServer
from sqlalchemy import func, select
from werkzeug import Request, Response

from db.engine import Engine, reading
from db.models import dim_account, scrape_job, scrape_state
from pipeline.accounts import import_list
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from tests.fakes import settings
from tests.system import System

INTERVAL_S = 0.2
# From Redis's slot to the server's clock: threads and a socket lie between.
JITTER_S = 0.05


class Platform:
    """A server that answers every actor and notes when it was asked, and for whom."""

    def __init__(self, server: HTTPServer) -> None:
        self.asked: list[tuple[float, list[str]]] = []
        server.expect_request("/app.bsky.actor.getProfiles").respond_with_handler(self._answer)

    def _answer(self, request: Request) -> Response:
        actors = request.args.getlist("actors")
        self.asked.append((time.monotonic(), actors))
        profiles = [{"did": f"did:plc:{actor}", "handle": actor, "followersCount": 7} for actor in actors]
        return Response(msgspec.json.encode({"profiles": profiles}), content_type="application/json")


@pytest.fixture
def platform(httpserver: HTTPServer) -> Platform:
    return Platform(httpserver)


@pytest.fixture
def processes(
    database_url: str, redis_url: str, tmp_path: Path, httpserver: HTTPServer, platform: Platform
) -> Iterator[System]:
    (tmp_path / "logs").mkdir()
    running = System(
        {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "BLUESKY_BASE_URL": httpserver.url_for(""),
            "RATE_LIMIT_BLUESKY_PROFILES": "5/s",
            "RATE_LIMIT_BLUESKY_POSTS": "1/h",
            "PLAN_AHEAD_S": "4",
        },
        tmp_path / "logs",
    )
    yield running
    running.stop()


def test_two_workers_together_keep_the_limit_of_one(processes: System, platform: Platform, engine: Engine) -> None:
    _accounts(engine, 500)  # twenty calls of 25
    processes.worker("bluesky")
    processes.worker("bluesky")
    processes.start("pipeline.beat")

    processes.wait(lambda: len(platform.asked) >= 20, within_s=40, what="twenty calls")

    moments = [moment for moment, _ in platform.asked]
    gaps = [b - a for a, b in pairwise(moments)]
    assert min(gaps) > INTERVAL_S - JITTER_S
    # And it is used: the median gap is the interval, not a multiple of it.
    assert sorted(gaps)[len(gaps) // 2] < INTERVAL_S + JITTER_S


def test_what_a_person_asks_for_goes_ahead_of_the_sweep(
    processes: System, platform: Platform, engine: Engine, database_url: str, redis_url: str
) -> None:
    _accounts(engine, 500)
    with engine.begin() as conn:
        wanted = conn.scalar(select(func.max(dim_account.c.account_key)))
        assert wanted is not None
        later = datetime.now(UTC) + timedelta(hours=1)
        conn.execute(scrape_state.update().where(scrape_state.c.account_key == wanted).values(next_due_at=later))
    processes.start("pipeline.beat")
    processes.wait(lambda: _queued(engine) >= 15, within_s=20, what="a queue")

    found = settings(database_url, redis_url, BLUESKY_BASE_URL="http://127.0.0.1")
    Enqueuer(found, engine, make_celery(found)).request([wanted], requested_by="test")
    processes.worker("bluesky", WORKER_CONCURRENCY="1")
    processes.wait(lambda: len(platform.asked) >= 3, within_s=20, what="three calls")

    # A worker that starts may have taken the first slot before its channel for people was open.
    assert ["agency499.example"] in [actors for _, actors in platform.asked[:2]]


def test_a_429_pauses_the_platform_until_its_reset_and_costs_no_attempt(
    processes: System, platform: Platform, engine: Engine, httpserver: HTTPServer
) -> None:
    httpserver.expect_oneshot_request("/app.bsky.actor.getProfiles").respond_with_data(
        '{"error":"RateLimitExceeded"}', status=429, headers={"Retry-After": "3"}, content_type="application/json"
    )
    _accounts(engine, 3)
    processes.worker("bluesky")
    processes.start("pipeline.beat")

    processes.wait(lambda: platform.asked, within_s=30, what="the call after the pause")
    processes.wait(lambda: _succeeded(engine) == [1], within_s=10, what="the job done in its first attempt")


def test_a_persons_job_whose_slot_is_far_away_is_kept_and_goes_first_when_it_comes(
    processes: System, platform: Platform, engine: Engine, database_url: str, redis_url: str
) -> None:
    _accounts(engine, 100)
    with engine.begin() as conn:
        wanted = conn.scalar(select(func.max(dim_account.c.account_key)))
        assert wanted is not None
        later = datetime.now(UTC) + timedelta(hours=1)
        conn.execute(scrape_state.update().where(scrape_state.c.account_key == wanted).values(next_due_at=later))
    rare = {"RATE_LIMIT_BLUESKY_PROFILES": "3/2m"}  # a call every 40 seconds, longer than a message is held
    processes.worker("bluesky", **rare)
    processes.start("pipeline.beat", **rare)
    processes.wait(lambda: platform.asked, within_s=20, what="a first call")

    found = settings(database_url, redis_url, BLUESKY_BASE_URL="http://127.0.0.1", **rare)
    Enqueuer(found, engine, make_celery(found)).request([wanted], requested_by="test")
    processes.wait(lambda: "outcome=released" in processes.said(), within_s=10, what="the job given back")
    processes.wait(lambda: len(platform.asked) == 2, within_s=60, what="the second call")

    (first_at, _), (second_at, second) = platform.asked
    assert second == ["agency99.example"]
    assert second_at - first_at == pytest.approx(40, abs=2)
    processes.wait(lambda: 1 in _attempts(engine, "user_requested"), within_s=10, what="the job done at once")


def _accounts(engine: Engine, count: int) -> None:
    rows = [f"bluesky,agency{n}.example" for n in range(count)]
    report = import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    assert report.counts == {"imported": count}, report.rows


def _queued(engine: Engine) -> int:
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).where(scrape_job.c.state == "queued")) or 0


def _succeeded(engine: Engine) -> list[int]:
    done = select(scrape_job.c.attempt).where(scrape_job.c.state == "succeeded", scrape_job.c.kind == "profiles")
    with reading(engine) as conn:
        return list(conn.scalars(done))


def _attempts(engine: Engine, lane: str) -> list[int]:
    done = select(scrape_job.c.attempt).where(scrape_job.c.state == "succeeded", scrape_job.c.lane == lane)
    with reading(engine) as conn:
        return list(conn.scalars(done))
