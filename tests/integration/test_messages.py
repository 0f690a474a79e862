"""What goes through the broker, on each of them: jobs by the thousand, and over a broker that was restarted."""

import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from pipeline import lanes
from pipeline.app import make_celery
from pipeline.messages import Refused, declare_lanes, publish_jobs
from pipeline.records import Job, Lane
from tests.brokers import Broker, received
from tests.fakes import settings
from tests.rabbitmq import RabbitMQ
from tests.system import system


@pytest.fixture
def celery(redis_url: str, broker: Broker) -> Iterator[Celery]:
    celery = make_celery(settings("postgresql://nowhere/none", redis_url, BROKER_URL=broker.url))
    yield celery
    celery.close()


def job(lane: Lane = "core") -> Job:
    return Job(job_id=str(uuid.uuid4()), platform="x", kind="profiles", lane=lane)


def test_thousands_of_jobs_are_sent_as_they_come_and_arrive_in_order(celery: Celery, broker: Broker) -> None:
    jobs = [job() for _ in range(2300)]

    def one_after_another() -> Iterator[Job]:
        for number, one in enumerate(jobs):
            if number == 2000:
                assert broker.waiting("x.core") >= 1000, "all are gathered in memory before the first is sent"
            yield one

    publish_jobs(celery, one_after_another())

    assert received(celery, "core", len(jobs)) == [one.job_id for one in jobs]


def test_each_lane_has_its_queue(celery: Celery, broker: Broker) -> None:
    jobs = [job(lane) for lane in lanes.LANES]

    publish_jobs(celery, jobs)

    assert [received(celery, one.lane, 1) for one in jobs] == [[one.job_id] for one in jobs]


def test_what_is_published_after_the_broker_was_restarted_arrives_at_once(celery: Celery, broker: Broker) -> None:
    before, after = job(), job()
    publish_jobs(celery, [before])
    broker.stop()
    broker.start()

    publish_jobs(celery, [after])

    assert received(celery, "core", 2) == [before.job_id, after.job_id]


def test_jobs_for_a_broker_that_is_away_are_refused_soon(celery: Celery, broker: Broker) -> None:
    publish_jobs(celery, [job()])
    broker.stop()
    began = time.monotonic()

    with pytest.raises(OperationalError):
        publish_jobs(celery, [job()])

    assert time.monotonic() - began < 10


def test_a_broker_that_goes_away_while_queues_are_declared_is_one_that_is_away(
    celery: Celery, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = lanes.queue

    def one_that_comes_too_late(platform: str, lane: Lane) -> Queue:
        broker.stop()
        return queue(platform, lane)

    monkeypatch.setattr(lanes, "queue", one_that_comes_too_late)
    with pytest.raises(OperationalError) as raised:
        declare_lanes(celery, "x")
    assert not isinstance(raised.value, Refused)


def test_a_queue_that_was_declared_otherwise_is_named_with_what_differs(rabbitmq: RabbitMQ, redis_url: str) -> None:
    celery = make_celery(settings("postgresql://nowhere/none", redis_url, BROKER_URL=rabbitmq.url))
    with Connection(rabbitmq.url) as connection:
        Queue("x.core", queue_arguments={"x-max-priority": 2})(connection.default_channel).declare()

    for _ in range(2):  # the second time over what the refusal left of the connection
        with pytest.raises(OperationalError, match=r"refuses.*'x-max-priority' for queue 'x.core'"):
            publish_jobs(celery, [job()])
    publish_jobs(celery, [job("retry")])
    assert rabbitmq.waiting("x.retry") == 1
    celery.close()


def test_a_worker_doesn_t_start_beside_a_queue_that_was_declared_otherwise(
    rabbitmq: RabbitMQ, database_url: str, redis_url: str, tmp_path: Path
) -> None:
    with Connection(rabbitmq.url) as connection:
        Queue("x.user_requested", queue_arguments={"x-max-priority": 2})(connection.default_channel).declare()

    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=rabbitmq.url) as (processes, _):
        assert processes.worker("x").wait(30) == 1
        said = processes.said()

    assert "the broker refuses" in said and "'x-max-priority' for queue 'x.user_requested'" in said
    assert "Traceback" not in said
