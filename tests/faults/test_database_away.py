"""PostgreSQL restarts in mid-work: nothing that was asked for is asked for again, and nothing waits for its lease."""

import signal
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest
from redis import Redis
from sqlalchemy import select

from db.engine import reading
from db.models import scrape_job
from deploy.simulator.faults import Fault
from deploy.simulator.site import Answer
from tests.chaos import Servers, Witness, is_all_read, list_accounts, servers, sweep
from workers.allowance import PAUSE_KEY

LONG_LEASE_S = 60.0
PROCESSES = (("pipeline.beat",), ("workers.recorder",), ("workers", "bluesky"))


@pytest.fixture
def own() -> Iterator[Servers]:
    with servers() as own:
        yield own


@pytest.fixture
def witness() -> Witness:
    return Witness(Random(1), spoiled=0.0)


class Refusing(Witness):
    """Answers its first call with 429, when it is told to."""

    def __init__(self) -> None:
        super().__init__(Random(1), spoiled=0.0)
        self.may_refuse = threading.Event()

    def answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[Answer, Fault | None]:
        answer, fault = super().answer(method, target, headers, body)
        if self.calls > 1:
            return answer, fault
        assert self.may_refuse.wait(30)
        return answer, Fault.read("retry_after=3")


def test_an_answer_that_comes_while_postgresql_is_away_is_kept(
    own: Servers, witness: Witness, tmp_path: Path
) -> None:
    list_accounts(own.engine, {"bluesky": 25})
    witness.spoil_next("bluesky", Fault("latency", 1.0))
    with sweep(own, witness, tmp_path / "logs", JOB_LEASE_S=str(LONG_LEASE_S)) as processes:
        processes.start("workers", "bluesky")
        processes.start("pipeline.beat")
        processes.wait(lambda: witness.calls, within_s=20, what="a call under way")
        asked_at = datetime.now(UTC)
        own.stop_postgres(signal.SIGQUIT)
        answered_at = asked_at + timedelta(seconds=2)
        processes.wait(lambda: datetime.now(UTC) > answered_at, within_s=5, what="its answer")
        own.start_postgres()

        processes.wait(lambda: is_all_read(own.engine), within_s=LONG_LEASE_S / 2, what="the answer kept")

    assert witness.calls == 1


def test_a_429_that_comes_while_postgresql_is_away_stops_every_worker_and_spends_no_attempt(
    own: Servers, tmp_path: Path
) -> None:
    platform = Refusing()
    list_accounts(own.engine, {"bluesky": 50})
    with (
        sweep(own, platform, tmp_path / "logs", JOB_LEASE_S=str(LONG_LEASE_S)) as processes,
        Redis.from_url(own.redis.url) as redis,
    ):
        processes.start("workers", "bluesky")
        processes.start("pipeline.beat")
        processes.wait(lambda: platform.calls, within_s=20, what="a call under way")
        own.stop_postgres(signal.SIGQUIT)
        platform.may_refuse.set()
        processes.wait(lambda: redis.exists(f"{PAUSE_KEY}bluesky:1"), within_s=10, what="a pause for every worker")
        own.start_postgres()

        processes.wait(lambda: is_all_read(own.engine), within_s=LONG_LEASE_S / 2, what="every account read")

    with reading(own.engine) as conn:
        assert conn.scalars(select(scrape_job.c.attempt)).all() == [1] * 2
    assert platform.calls == 2 + 1


def test_jobs_that_are_delivered_while_postgresql_is_away_begin_when_it_is_back(
    own: Servers, witness: Witness, tmp_path: Path
) -> None:
    list_accounts(own.engine, {"bluesky": 500})
    rate = {"RATE_LIMIT_BLUESKY_PROFILES": "4/s", "PLAN_AHEAD_S": "5"}
    with sweep(own, witness, tmp_path / "logs", JOB_LEASE_S=str(LONG_LEASE_S), **rate) as processes:
        processes.start("workers", "bluesky")
        processes.start("pipeline.beat")
        processes.wait(lambda: witness.calls > 2, within_s=20, what="a sweep under way")
        own.stop_postgres(signal.SIGINT)
        back_at = datetime.now(UTC) + timedelta(seconds=3)
        processes.wait(lambda: datetime.now(UTC) > back_at, within_s=5, what="messages delivered meanwhile")
        own.start_postgres()

        processes.wait(lambda: is_all_read(own.engine), within_s=LONG_LEASE_S / 2, what="every account read")

    assert witness.repeated == []


def test_processes_that_start_while_postgresql_is_away_wait_for_it_and_spend_no_attempt(
    own: Servers, witness: Witness, tmp_path: Path
) -> None:
    list_accounts(own.engine, {"bluesky": 100})
    with sweep(own, witness, tmp_path / "logs", JOB_LEASE_S=str(LONG_LEASE_S)) as processes:
        planner = processes.start("pipeline.beat")
        processes.wait(lambda: own.redis.waiting("bluesky.core") == 4, within_s=20, what="four jobs given out")
        planner.kill()
        planner.wait()
        own.stop_postgres(signal.SIGINT)
        started = [processes.start(*module) for module in PROCESSES]
        processes.wait(lambda: own.redis.waiting("bluesky.core") < 4, within_s=20, what="a worker with a message")
        own.start_postgres()

        processes.wait(lambda: is_all_read(own.engine), within_s=LONG_LEASE_S / 2, what="every account read")
        assert [process.poll() for process in started] == [None] * len(started)

    with reading(own.engine) as conn:
        assert conn.scalars(select(scrape_job.c.attempt)).all() == [1] * 4
    assert witness.calls == 4
