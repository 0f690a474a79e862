"""Rates changed while running: Celery's remote command and Flower's button, for every worker, now and later."""

import base64
import json
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from redis import Redis
from sqlalchemy import func, select

from db.engine import Engine, reading
from db.models import scrape_job
from pipeline.accounts import import_list
from pipeline.app import make_celery
from pipeline.slots import Slots
from tests.fakes import settings
from tests.system import System, system

TASK = "scrape.bluesky.profiles"
SETTINGS_RATE = "3/m"


@pytest.fixture
def processes(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[System]:
    with system(database_url, redis_url, tmp_path / "logs", RATE_LIMIT_BLUESKY_PROFILES=SETTINGS_RATE) as (
        running,
        _,
    ):
        yield running


@pytest.fixture
def celery(database_url: str, redis_url: str) -> Celery:
    return make_celery(settings(database_url, redis_url))


@pytest.fixture
def slots(redis_url: str) -> Iterator[Slots]:
    with Redis.from_url(redis_url) as redis:
        yield Slots(redis)


def test_a_rate_changed_by_command_holds_for_workers_that_start_later_until_it_is_set_back(
    processes: System, celery: Celery, slots: Slots
) -> None:
    processes.worker("bluesky")
    processes.wait(lambda: len(shown(celery)) == 1, within_s=20, what="a worker")

    assert "ok" in said(celery, TASK, "10/s")
    assert slots.spaces() == {TASK: 0.1}
    processes.worker("bluesky")
    processes.wait(lambda: shown(celery) == ["10/s", "10/s"], within_s=20, what="both workers showing the rate")

    assert "ok" in said(celery, TASK, SETTINGS_RATE)
    assert slots.spaces() == {}


@pytest.mark.parametrize(
    ("task", "rate"), [(TASK, "fast"), (TASK, "-1/s"), ("scrape.x.profiles", "1/s"), ("?", "1/s")]
)
def test_a_command_that_makes_no_sense_is_answered_and_changes_nothing(
    processes: System, celery: Celery, slots: Slots, task: str, rate: str
) -> None:
    processes.worker("bluesky")
    processes.wait(lambda: shown(celery), within_s=20, what="a worker")
    before = shown(celery)

    assert "error" in said(celery, task, rate)
    assert (slots.spaces(), shown(celery)) == ({}, before)


def test_a_faster_rate_lets_held_messages_go_at_once(processes: System, celery: Celery, engine: Engine) -> None:
    rows = [f"bluesky,agency{n}.bsky.social" for n in range(100)]  # four calls of 25
    import_list(engine, "\n".join(["platform,handle", *rows]).encode(), now=datetime.now(UTC))
    processes.worker("bluesky", PLAN_AHEAD_S="60")
    processes.start("pipeline.beat", PLAN_AHEAD_S="60")
    processes.wait(lambda: done(engine) == 1, within_s=60, what="the first call")

    said(celery, TASK, "10/s")

    processes.wait(lambda: done(engine) == 4, within_s=30, what="the other calls, twenty seconds apart before")


def test_flowers_button_changes_the_rate_of_the_whole_fleet(processes: System, celery: Celery, slots: Slots) -> None:
    for _ in range(2):
        processes.worker("bluesky")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    processes.start("pipeline.app", "flower", FLOWER_PORT=str(port), FLOWER_BASIC_AUTH="ann:secret")
    flower = f"http://127.0.0.1:{port}/api"
    workers = processes.wait(lambda: two_workers(flower), within_s=40, what="Flower, and two workers that it sees")

    asked(f"{flower}/task/rate-limit/{TASK}", workername=workers[0], ratelimit="10/s")

    assert slots.spaces() == {TASK: 0.1}


def two_workers(flower: str) -> list[str] | None:
    try:
        found = list(asked(f"{flower}/workers?refresh=1"))
    except OSError:
        return None
    return found if len(found) == 2 else None


def asked(url: str, **form: str) -> Any:
    request = urllib.request.Request(url, data=urllib.parse.urlencode(form).encode() if form else None)
    request.add_header("Authorization", "Basic " + base64.b64encode(b"ann:secret").decode())
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def said(celery: Celery, task: str, rate: str) -> str:
    """Return the worker's answer to `rate_limit`."""
    (answer,) = celery.control.rate_limit(task, rate, reply=True, timeout=3)[:1]
    return str(answer)


def shown(celery: Celery) -> list[str]:
    """Return the rate that each worker shows."""
    workers = celery.control.inspect(timeout=1).registered("rate_limit") or {}
    lines = [line for tasks in workers.values() for line in tasks if line.startswith(f"{TASK} ")]
    return [line.partition("rate_limit=")[2].rstrip("]") for line in lines]


def done(engine: Engine) -> int:
    finished = select(func.count()).where(scrape_job.c.kind == "profiles", scrape_job.c.state == "succeeded")
    with reading(engine) as conn:
        return conn.scalar(finished) or 0
