"""What the recorder keeps is what the platform saw, call by call, though recorders and brokers are killed all the time."""

import os
import signal
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from db import metrics
from db.engine import Engine, reading
from pipeline import outbox
from pipeline.app import make_celery
from pipeline.metrics import ACCOUNTS, CALL_TIME, CALLS, JOBS, Metric
from tests.brokers import Broker
from tests.chaos import Witness, is_all_read, list_accounts
from tests.fakes import settings
from tests.integration.test_recorder import recording
from tests.serving import wait_for
from tests.system import system

# Each is one call: YouTube looks up names one by one.
COUNT = 240
RECORDERS = 6
# A message that was lost is sent again after ten seconds, then twenty.
WITHIN_S = 120.0


def total(engine: Engine, metric: Metric) -> float:
    with reading(engine) as conn:
        return sum(sum(one.buckets or ()) or one.value for one in metrics.totals(conn) if one.name == metric.name)


def test_every_call_is_counted_once_though_recorders_and_the_broker_are_killed(
    database_url: str, redis_url: str, broker: Broker, engine: Engine, tmp_path: Path
) -> None:
    witness = Witness(Random(4), spoiled=0.05)
    list_accounts(engine, {"youtube": COUNT})
    environ = {
        "BROKER_URL": broker.url,
        "RATE_LIMIT_YOUTUBE_RESOLVE": "25/s",
        "PLAN_AHEAD_S": "2",
        "JOB_LEASE_S": "20",
        "BACKOFF_BASE_S": "1",
        "BACKOFF_CAP_S": "2",
    }
    with system(database_url, redis_url, tmp_path / "logs", simulation=witness, **environ) as (processes, _):
        recorders = [processes.start("workers.recorder") for _ in range(2)]
        for module in (("workers", "youtube"), ("pipeline.beat",)):
            processes.start(*module)
        for blow in range(1, RECORDERS + 1):
            calls = min(COUNT - 1, blow * COUNT // (RECORDERS + 2))
            processes.wait(lambda seen=calls: witness.has_seen(seen), within_s=60, what=f"{calls} calls")
            for number, recorder in enumerate(recorders):
                os.killpg(recorder.pid, signal.SIGKILL)
                recorder.wait()
                recorders[number] = processes.start("workers.recorder")
            if blow % 3 == 0:
                broker.kill()
                broker.start()

        processes.wait(lambda: is_all_read(engine), within_s=90, what="every account read")
        processes.wait(lambda: total(engine, CALLS) >= witness.calls, within_s=WITHIN_S, what="every call counted")
        assert total(engine, CALLS) == witness.calls
        assert total(engine, CALL_TIME) == witness.calls
        assert total(engine, ACCOUNTS) <= total(engine, JOBS)


def test_what_the_broker_has_lost_is_sent_again_until_it_is_counted(
    database_url: str, redis_url: str, broker: Broker, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "FIRST_WAIT_S", 1.0)
    found = settings(database_url, redis_url, BROKER_URL=broker.url)
    box = outbox.Outbox(make_celery(found), engine, "worker")
    box.start()
    for _ in range(50):
        box.send([CALLS.sample(1, "x", "profiles", "core")], at=datetime.now(UTC))
    broker.clear()
    with recording(found, engine):
        wait_for(lambda: total(engine, CALLS) == 50, "everything that was lost", WITHIN_S)
        broker.kill()
        for _ in range(50):
            box.send([CALLS.sample(1, "x", "profiles", "core")], at=datetime.now(UTC))
        broker.start()
        wait_for(lambda: total(engine, CALLS) == 100, "what was counted while the broker was away", WITHIN_S)
    box.close()
