"""The person's lane beside the others in a real worker, on both brokers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

from db.engine import Engine
from pipeline import lanes
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.settings import Settings
from tests import fakes
from tests.brokers import Broker
from tests.lanes import Stamping, handles, key_of, list_accounts
from tests.system import System, system

QUEUES = {lanes.queue_name("bluesky", lane) for lane in lanes.LANES}
SLOTS = 2


@pytest.fixture
def platform() -> Stamping:
    return Stamping()


@pytest.fixture
def found(database_url: str, redis_url: str, broker: Broker) -> Settings:
    return fakes.settings(database_url, redis_url, BROKER_URL=broker.url, SIMULATOR_URL="http://127.0.0.1:9")


@pytest.fixture
def celery(found: Settings) -> Iterator[Celery]:
    celery = make_celery(found)
    yield celery
    celery.close()


@pytest.fixture
def processes(
    database_url: str, redis_url: str, broker: Broker, tmp_path: Path, platform: Stamping
) -> Iterator[System]:
    environ = {"BROKER_URL": broker.url, "RATE_LIMIT_BLUESKY_PROFILES": "4/s", "WORKER_CONCURRENCY": str(SLOTS)}
    with system(database_url, redis_url, tmp_path / "logs", simulation=platform, **environ) as (running, _):
        yield running


@pytest.fixture
def enqueuer(found: Settings, engine: Engine, celery: Celery) -> Enqueuer:
    return Enqueuer(found, engine, celery)


def test_a_person_s_call_waits_for_no_slow_call_of_another_lane(
    processes: System, platform: Stamping, engine: Engine, enqueuer: Enqueuer
) -> None:
    platform.slow_s["core"] = 5.0
    list_accounts(engine, of_core=200, not_due=1)
    processes.start("pipeline.beat")
    processes.worker("bluesky")
    processes.wait(lambda: len(platform.calls) == SLOTS, within_s=30, what="as many slow calls as there are slots")

    (handle,) = handles("asked", 1)
    enqueuer.request([key_of(engine, handle)], requested_by="a test")
    processes.wait(lambda: platform.began(handle), within_s=30, what="the person's call")

    assert handle in platform.calls[SLOTS][1], "it waited until a slow call was over"


def test_whatever_people_ask_for_goes_before_the_next_core_call(
    processes: System, platform: Stamping, engine: Engine, enqueuer: Enqueuer
) -> None:
    list_accounts(engine, of_core=1000, not_due=12)
    processes.start("pipeline.beat")
    processes.wait(lambda: processes.said().count("planned"), within_s=30, what="core messages in the broker")
    asked = handles("asked", 12)
    for handle in asked:
        enqueuer.request([key_of(engine, handle)], requested_by="a test")
    processes.worker("bluesky")

    processes.wait(lambda: all(map(platform.began, asked)), within_s=30, what="the calls for all")

    first_calls = [query for _, query in platform.calls[: len(asked) + 1]]
    assert sum("core" in query for query in first_calls) <= 1, (
        "one may have been there before the worker knew of them"
    )


def test_all_lanes_are_consumed_again_after_the_broker_was_restarted(
    processes: System, platform: Stamping, engine: Engine, enqueuer: Enqueuer, celery: Celery, broker: Broker
) -> None:
    list_accounts(engine, not_due=1)
    processes.worker("bluesky")
    processes.wait(lambda: _consumed(celery) == QUEUES, within_s=30, what="the worker")
    broker.stop()
    processes.wait(lambda: "Connection to broker lost" in processes.said(), within_s=30, what="the loss noticed")
    broker.start()
    processes.wait(lambda: _consumed(celery) == QUEUES, within_s=30, what="the worker back")

    (handle,) = handles("asked", 1)
    enqueuer.request([key_of(engine, handle)], requested_by="a test")

    processes.wait(lambda: platform.began(handle), within_s=10, what="the person's call")


def _consumed(celery: Celery) -> set[str]:
    """Return the queues that workers say they consume."""
    try:
        said = celery.control.inspect(timeout=0.5).active_queues() or {}
    except celery.connection_for_read().connection_errors:
        return set()
    return {queue["name"] for queues in said.values() for queue in queues}
