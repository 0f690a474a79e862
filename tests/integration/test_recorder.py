"""The recorder with a real database, and a Redis that goes and comes back."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import func, select
from structlog.testing import capture_logs

from db.engine import Engine, reading
from db.metrics import Metric
from db.models import scrape_metric
from deploy.embedded import start_redis
from pipeline.app import make_celery
from pipeline.messages import publish_metric, receive_metrics
from pipeline.settings import Settings
from tests.fakes import NOON, settings
from tests.serving import wait_for
from workers import recorder


def publish(found: Settings, minute: int = 0) -> None:
    at = NOON + timedelta(minutes=minute)
    celery = make_celery(found)
    publish_metric(
        celery,
        Metric(
            at=at,
            platform="x",
            kind="profiles",
            lane="core",
            outcome="succeeded",
            accounts=100,
            failed_accounts=0,
            duration_s=0.5,
        ),
    )
    celery.close()


@contextmanager
def recording(found: Settings, engine: Engine) -> Iterator[threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(found, engine, stop))
    thread.start()
    try:
        yield thread
    finally:
        stop.set()
        thread.join()


def minutes(engine: Engine) -> int:
    """Return how many minutes have been recorded."""
    with reading(engine) as conn:
        return conn.scalar(select(func.count()).select_from(scrape_metric)) or 0


def test_the_recorder_waits_while_redis_is_away_and_goes_on(
    database_url: str, engine: Engine, tmp_path: Path
) -> None:
    server = start_redis(tmp_path / "redis")
    found = settings(database_url, server.url)
    with capture_logs() as said, recording(found, engine) as thread:
        publish(found)
        wait_for(lambda: minutes(engine) == 1, "the first metric")
        server.stop()
        wait_for(lambda: len(said) > 1, "the recorder to try again and again")
        server = start_redis(tmp_path / "redis")
        try:
            publish(found, minute=1)
            wait_for(lambda: minutes(engine) == 2, "the second metric")
            assert thread.is_alive()
        finally:
            server.stop()
    assert {line["event"] for line in said} == {"recorder_waits"}


def test_a_metric_that_was_not_acknowledged_outlives_the_outage(database_url: str, tmp_path: Path) -> None:
    server = start_redis(tmp_path / "redis")
    found = settings(database_url, server.url)
    publish(found)

    with pytest.raises(Exception, match="onnect"):
        receive_metrics(found.broker, lambda metrics: server.stop(), threading.Event())

    server = start_redis(tmp_path / "redis")
    try:
        with Redis.from_url(server.url) as redis:
            assert redis.hlen("unacked") == 1
    finally:
        server.stop()
