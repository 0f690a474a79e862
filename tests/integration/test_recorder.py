"""The recorder with a real database, and a broker that goes and comes back."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest
from kombu import Connection
from sqlalchemy import func, select
from structlog.testing import capture_logs

from db import leases, metrics
from db.engine import Engine, reading, transaction
from db.metrics import Counted
from db.models import metric_minute
from pipeline.app import make_celery
from pipeline.messages import METRICS, broker_errors, receive_metrics
from pipeline.metrics import CALLS
from pipeline.outbox import Outbox
from pipeline.settings import Settings
from tests.brokers import Broker
from tests.fakes import settings
from tests.serving import wait_for
from workers import recorder

_CLASSES = json.dumps([1] * metrics.CLASSES)
_SAMPLES = (
    '["a", [], -1]',
    '["a", [], 1e400]',
    '["a", [], NaN]',
    '["a", [], 1, [1, 2]]',
    f'["a", [], 1, {_CLASSES.replace("1", "-1")}]',
    f'["a", [], 1, {_CLASSES.replace("1", str(2**63))}]',
    f'["a", ["{"b" * 4000}"], 1]',
    f'["{"a" * 4000}", [], 1]',
    '["a", [null], 1]',
)
_MESSAGE = '{{"sender": "s", "role": "r", "number": {}, "at": "{}", "samples": [{}]}}'
_AT = "2026-03-01T12:00:00Z"
REFUSED = (
    *("", "{", "[]", "null", '{"sender": 1}', "\x00", '{"sender":"a","role":"b","number":1}'),
    *(_MESSAGE.format(1, _AT, sample) for sample in _SAMPLES),
    *(_MESSAGE.format(number, _AT, "") for number in (0, -1, 2**63, 1.5)),
    *(_MESSAGE.format(1, at, "") for at in ("2026-03-01T12:00:00", "yesterday", "10000-01-01T00:00:00Z")),
)
BEGIN = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(days=3)


@pytest.fixture
def found(database_url: str, redis_url: str, broker: Broker) -> Settings:
    return settings(database_url, redis_url, BROKER_URL=broker.url)


def publish(found: Settings, engine: Engine, *minutes: int) -> None:
    """Send a message for each of these minutes, as one process does."""
    celery = make_celery(found)
    outbox = Outbox(celery, engine, "worker")
    for minute in minutes:
        sample = CALLS.sample(1, "x", "profiles", "core")
        outbox.send([sample], at=BEGIN + timedelta(minutes=minute))
    outbox.close()
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
        return conn.scalar(select(func.count()).select_from(metric_minute)) or 0


def test_the_recorder_waits_while_its_broker_is_away_and_goes_on(
    found: Settings, engine: Engine, broker: Broker
) -> None:
    with capture_logs() as said, recording(found, engine) as thread:
        publish(found, engine, 0)
        wait_for(lambda: minutes(engine) == 1, "the first metric")
        broker.stop()
        wait_for(lambda: len(said) > 3, "the recorder to try again and again")
        broker.start()
        publish(found, engine, 1)
        wait_for(lambda: minutes(engine) == 2, "the second metric")
        assert thread.is_alive()
    assert {line["event"] for line in said} == {"recorder_records", "recorder_waits"}


def test_a_metric_that_was_not_acknowledged_outlives_the_outage(
    found: Settings, engine: Engine, broker: Broker
) -> None:
    publish(found, engine, 0)

    def take(counted: Sequence[Counted]) -> bool:
        broker.stop()
        return True

    with pytest.raises(broker_errors(found.broker)):
        receive_metrics(found.broker, take, threading.Event())

    broker.start()
    assert broker.unacknowledged(METRICS.name) == 1


def test_what_was_written_and_never_acknowledged_counts_once(found: Settings, engine: Engine, broker: Broker) -> None:
    publish(found, engine, *range(10))

    def take(counted: Sequence[Counted]) -> bool:
        if not counted:
            return True
        with transaction(engine) as conn:
            metrics.add(conn, counted, oldest=BEGIN - timedelta(days=1))
        raise ConnectionError("the recorder dies between its commit and the acknowledgement")

    with pytest.raises(ConnectionError):
        receive_metrics(found.broker, take, threading.Event())
    assert broker.unacknowledged(METRICS.name) == 10

    with recording(found, engine):
        publish(found, engine, 10)
        wait_for(lambda: _calls(engine) > 10, "one more, behind all of them", 60)
        wait_for(lambda: broker.unacknowledged(METRICS.name) == 0, "an empty queue", 60)
    assert _calls(engine) == 11


def test_metrics_are_taken_by_the_thousand_and_each_once(found: Settings, engine: Engine) -> None:
    publish(found, engine, *range(2500))

    with recording(found, engine):
        wait_for(lambda: minutes(engine) == 2500, "every metric", 60)

    with reading(engine) as conn:
        assert [one.value for one in metrics.totals(conn)] == [2500]


def test_a_second_recorder_stands_by_until_the_first_one_is_gone(
    database_url: str, redis_url: str, engine: Engine
) -> None:
    found = settings(database_url, redis_url)
    with transaction(engine) as conn:
        assert leases.take(conn, leases.RECORDER, "another", kept_s=60)
    with recording(found, engine):
        publish(found, engine, 0)
        wait_for(lambda: not _is_free(engine), "the lease to be asked for")
        assert minutes(engine) == 0
        with transaction(engine) as conn:
            leases.leave(conn, leases.RECORDER, "another")
        wait_for(lambda: minutes(engine) == 1, "the one that stood by")
    assert _is_free(engine), "it left its lease to the next one"


def test_two_recorders_that_both_think_it_is_theirs_count_each_message_once(
    database_url: str, redis_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "take", lambda *_, **__: True)
    found = settings(database_url, redis_url)
    with recording(found, engine), recording(found, engine):
        publish(found, engine, *range(200))
        publish(found, engine, *range(200))
        wait_for(lambda: _calls(engine) >= 400, "every message", 60)
    assert _calls(engine) == 400


def test_what_nobody_could_have_sent_is_refused_and_costs_the_others_nothing(
    found: Settings, engine: Engine, broker: Broker
) -> None:
    with Connection(found.broker) as connection:
        for body in REFUSED:
            connection.Producer().publish(body, routing_key=METRICS.name, declare=[METRICS])
    with recording(found, engine):
        publish(found, engine, 0)
        wait_for(lambda: minutes(engine) == 1, "the good one")
    assert broker.unacknowledged(METRICS.name) == 0


def _is_free(engine: Engine) -> bool:
    with transaction(engine) as conn:
        free = leases.take(conn, leases.RECORDER, "whoever", kept_s=60)
        conn.rollback()
        return free


def _calls(engine: Engine) -> float:
    with reading(engine) as conn:
        return sum(one.value for one in metrics.totals(conn))
