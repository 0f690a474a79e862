"""Whoever can write to the broker can't run code in a worker, end it, or have what he sends written into a log."""

import json
import pickle
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from sqlalchemy import func, select

from db.engine import Engine, reading
from db.metrics import Counted
from db.models import account_latest, metric_sender
from pipeline import lanes
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.messages import METRICS, PURGES, listen_purges, publish_counted
from tests import fakes
from tests.lanes import handles, key_of, list_accounts
from tests.serving import purger, wait_for
from tests.system import System, system

PATIENCE_S = 60
WORD = "SECRETWORD"
JOB = "0b7c2f0e-7d5e-4f6b-9a53-0d3f4f1b2c3d"
OURS: Mapping[str, Any] = {"task": "scrape.bluesky.profiles", "id": JOB}
ARGUMENTS = f'[["{JOB}"], {{}}, {{"callbacks": null, "errbacks": null, "chain": null, "chord": null}}]'


class Evil:
    """What pickle makes a file of, as soon as somebody reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def foreign(path: Path) -> dict[str, tuple[bytes, str, Mapping[str, Any]]]:
    """Return messages that no process of ours sends, by what is wrong with them: body, type and headers."""
    evil, called = (
        pickle.dumps(Evil(path)),
        f'{{"task": "{OURS["task"]}", "args": ["{WORD}"], "kwargs": {{}}, "id": "{JOB}"}}',
    )
    following = ARGUMENTS.replace('"callbacks": null', f'"callbacks": [{called}]').encode()
    of_ours = {
        "it is pickled": (evil, "application/x-python-serialize", OURS),
        "it is pickled without headers": (evil, "application/x-python-serialize", {}),
        "it says that it is JSON": (evil, "application/json", OURS),
        "it has callbacks": (following, "application/json", OURS),
        "it comes later": (ARGUMENTS.encode(), "application/json", {**OURS, "eta": WORD}),
        "it has a time limit": (ARGUMENTS.encode(), "application/json", {**OURS, "timelimit": [WORD, None]}),
        "it is compressed": (ARGUMENTS.encode(), "application/json", {**OURS, "compression": "application/x-gzip"}),
        "it is no job": (ARGUMENTS.replace(JOB, WORD).encode(), "application/json", OURS),
        "it is another job": (ARGUMENTS.replace("0b7c", "1b7c").encode(), "application/json", OURS),
        "it has no arguments": (f'"{WORD}"'.encode(), "application/json", OURS),
        "it is deep": (b"[" * 50_000, "application/json", OURS),
    }
    others = {
        name: (ARGUMENTS.encode(), "application/json", {**OURS, "task": name})
        for name in ("os.system", "celery.chord")
    }
    return of_ours | others | {"it is of an old protocol": (called.encode(), "application/json", {})}


@pytest.fixture
def processes(database_url: str, redis_url: str, broker_url: str, tmp_path: Path) -> Iterator[System]:
    with system(database_url, redis_url, tmp_path / "logs", BROKER_URL=broker_url) as (running, _):
        yield running


@pytest.fixture
def celery(database_url: str, redis_url: str, broker_url: str) -> Iterator[Celery]:
    celery = make_celery(
        fakes.settings(database_url, redis_url, BROKER_URL=broker_url, SIMULATOR_URL="http://127.0.0.1:9")
    )
    yield celery
    celery.close()


def send(celery: Celery, body: bytes, kind: str, headers: Mapping[str, Any], **to: Any) -> None:
    with celery.producer_pool.acquire(block=True) as producer:
        # As it is: what is compressed in name alone, too.
        channel = producer.channel
        message = channel.prepare_message(
            body.decode("latin-1") if kind == "application/json" else body,
            content_type=kind,
            content_encoding="utf-8",
            headers=dict(headers),
            properties={},
        )
        channel.basic_publish(message, **to)


def litter(redis_url: str, queue: str) -> None:
    """Put into a queue on Redis what is no message at all."""
    whole = {"body": "", "content-type": "application/json", "content-encoding": "utf-8", "headers": {}}
    bodies = [
        {**whole, "body": WORD},
        {**whole, "properties": {"delivery_tag": WORD, "delivery_info": {}, "body_encoding": "base64"}},
        {**whole, "properties": WORD, "headers": [WORD]},
        {"__type__": WORD, "__value__": WORD},
        [WORD],
        WORD,
    ]
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue, f"{WORD} {{", b"\xff\xfe", "[" * 50_000, *map(json.dumps, bodies))
        wait_for(lambda: not client.llen(queue), f"{queue} to be emptied", within_s=PATIENCE_S)


def count(engine: Engine, table: Any) -> int:
    with reading(engine) as conn:
        return int(conn.scalar(select(func.count()).select_from(table)) or 0)


def test_a_worker_refuses_messages_of_strangers_and_reads_on(
    processes: System,
    celery: Celery,
    engine: Engine,
    database_url: str,
    redis_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    worker = processes.worker("bluesky")
    processes.wait(lambda: "ready" in processes.said(), within_s=PATIENCE_S, what="a worker")
    ran = tmp_path / "ran"
    sent = foreign(ran)
    for lane in ("core", "user_requested"):
        for body, kind, headers in sent.values():
            send(celery, body, kind, headers, exchange="", routing_key=lanes.queue_name("bluesky", lane))
    processes.wait(
        lambda: processes.said().count("message_refused") >= 2 * len(sent),
        within_s=PATIENCE_S,
        what="each to be refused",
    )
    if not broker_url.startswith("amqp"):
        litter(broker_url, lanes.queue_name("bluesky", "core"))
    list_accounts(engine, not_due=1)
    (handle,) = handles("asked", 1)
    settings = fakes.settings(database_url, redis_url, BROKER_URL=broker_url, SIMULATOR_URL="http://127.0.0.1:9")
    Enqueuer(settings, engine, celery).request([key_of(engine, handle)], requested_by="a test")

    processes.wait(lambda: count(engine, account_latest), within_s=PATIENCE_S, what="a reading after all that")
    assert worker.poll() is None
    assert not ran.exists()
    assert WORD not in processes.said()
    assert "Traceback" not in processes.said()


def test_recorder_and_listeners_go_on_after_what_no_process_sent(
    processes: System,
    celery: Celery,
    engine: Engine,
    database_url: str,
    redis_url: str,
    broker_url: str,
    tmp_path: Path,
) -> None:
    settings = fakes.settings(database_url, redis_url, BROKER_URL=broker_url)
    recorder = processes.start("workers.recorder")
    heard: list[Sequence[str]] = []
    is_connected, stop = threading.Event(), threading.Event()
    lost = threading.Event()
    listener = threading.Thread(
        target=listen_purges,
        args=(settings.broker, lambda tags, _: heard.append(tags), is_connected.set, lost.set, stop),
    )
    listener.start()
    try:
        assert is_connected.wait(PATIENCE_S)
        processes.wait(lambda: "recorder_records" in processes.said(), within_s=PATIENCE_S, what="a recorder")
        evil, ran = pickle.dumps(Evil(tmp_path / "ran")), tmp_path / "ran"
        counted = {"sender": "a", "role": "api", "number": 1, "at": "2026-03-02T12:00:00Z", "samples": []}
        wrong = [{}, {**counted, "role": f"{WORD}\0"}, {**counted, "samples": WORD}, {"tags": [1], "seq": WORD}]
        bodies = [evil, WORD.encode(), b"[" * 50_000, *(json.dumps(body).encode() for body in wrong)]
        for kind in ("application/json", "application/x-python-serialize"):
            for body in bodies:
                send(celery, body, kind, {}, exchange="", routing_key=METRICS.name)
                send(celery, body, kind, {}, exchange=PURGES.name, routing_key="")
        if not broker_url.startswith("amqp"):
            litter(broker_url, METRICS.name)
        publish_counted(celery, Counted(sender="a", role="api", number=2, at=datetime.now(UTC), samples=()))
        purger(settings).purge({"summary"})

        wait_for(lambda: ("summary",) in heard, "the purge after all that", within_s=PATIENCE_S)
        processes.wait(lambda: count(engine, metric_sender), within_s=PATIENCE_S, what="the count after all that")
        assert recorder.poll() is None
        assert not lost.is_set()
        assert not ran.exists()
        assert processes.said().count("metric_refused") >= 2 * len(bodies)
        assert WORD not in processes.said()
        assert "Traceback" not in processes.said()
    finally:
        stop.set()
        listener.join(PATIENCE_S)
