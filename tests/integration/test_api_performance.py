"""What `/api/performance` and `/metrics` say of requests that were made and readings that were counted."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from api import counting
from db import pauses
from db.engine import Engine, transaction
from db.metrics import Counted, Sample
from db.metrics import add as add_metrics
from db.pauses import Pause
from pipeline import metrics, slots
from pipeline.metrics import BY_NAME, Times
from pipeline.settings import Settings
from tests.fakes import settings
from tests.jobs import claimed, listed, running
from tests.serving import InProcess, add_account, gunicorn, in_process, keep, wait_for
from workers import recorder

EVER = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "EVERY_S", 0.2)


@pytest.fixture
def found(database_url: str, redis_url: str) -> Settings:
    return settings(database_url, redis_url, SIMULATOR_URL="http://127.0.0.1:9")


@contextmanager
def recording(found: Settings, engine: Engine) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(found, engine, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def performance(api: InProcess) -> Any:
    answer = api.get("/api/performance")
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json


def endpoint(said: Any, name: str) -> Any:
    return next((one for one in (said or {"endpoints": []})["endpoints"] if one["endpoint"] == name), None)


def counted(*samples: Sample, number: int = 1, age_s: float = 0) -> Counted:
    at = datetime.now(UTC) - timedelta(seconds=age_s)
    return Counted(sender="worker-1", role="worker", number=number, at=at, samples=samples)


def add(engine: Engine, *messages: Counted) -> None:
    with transaction(engine) as conn:
        add_metrics(conn, messages, oldest=EVER)


def series(text: str) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value  # labels in the order of their names
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_the_template_of_their_address_and_class_of_status(
    found: Settings, engine: Engine
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/goose"), 100)
    with recording(found, engine), in_process(found) as api:
        api.wait_until_it_hears_purges()
        for _ in range(5):
            assert api.get("/api/history/x/goose").status_code == 200
        assert api.get("/api/history/x/nobody").status_code == 404
        assert api.get("/api/summary?nonsense=1").status_code == 400
        assert api.get("/nowhere/x/goose").status_code == 404

        def said() -> Any:
            window = performance(api)["last_5_minutes"]
            return window if endpoint(window, "none") and endpoint(window, "/api/summary") else None

        wait_for(said, "every request in the record")
        whole = performance(api)
    for name in ("since_start", "last_24_hours", "last_5_minutes"):
        history = endpoint(whole[name], "/api/history/{platform}/{handle}")
        assert (history["count"], history["errors"], history["refused"]) == (6, 0, 1)
        assert 0 < history["p50_ms"] <= history["p95_ms"] <= history["p99_ms"]
        assert endpoint(whole[name], "/api/summary")["refused"] == 1
        assert endpoint(whole[name], "none")["refused"] == 1
        cache = whole[name]["cache"]
        assert cache["l1_hits"] == 4
        assert cache["misses"] == 2, "the unknown one is an answer, too"
        assert cache["hit_rate"] == round(4 / 6, 4)
        assert whole[name]["database"]["reads"] >= 2
    assert "goose" not in json.dumps(whole), "no handle is a label"
    assert whole["pool"]["processes"] == 1
    assert whole["pool"]["most"] >= 15, "the reads' and the exports' connections"


def test_a_fleet_is_counted_to_the_last_request_through_restarts_of_its_processes(
    found: Settings, database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    environ = {"SIMULATOR_URL": "http://127.0.0.1:9", "LOG_LEVEL": "warning"}
    before = 0.0
    asked = 0
    with recording(found, engine):
        for _ in range(2):  # the second time with new processes
            with gunicorn(database_url, redis_url, tmp_path, **environ) as server:
                for worker in server.workers:
                    for _ in range(10):
                        assert server.get("/api/totals", worker)[0] == 200
                        asked += 1
            # Stopped in order: what they had counted is on its way.
            with in_process(found) as api:
                name = ("rollcall_http_requests_total", ("/api/totals", "2xx"))
                wait_for(lambda: series(api.get("/metrics").text).get(name) == asked, "every request in /metrics")  # noqa: B023
                now = sum(v for (n, _), v in series(api.get("/metrics").text).items() if n.endswith("_total"))
                assert now >= before, "counters never fall"
                before = now


def test_readings_are_shown_by_platform_and_queue(found: Settings, engine: Engine) -> None:
    times = Times()
    for took_s in (0.1, 0.1, 0.1, 2.0):
        times.add(took_s)
    add(
        engine,
        counted(
            metrics.CALLS.sample(3, "x", "profiles", "core"),
            metrics.CALLS.sample(1, "x", "resolve", "core"),
            metrics.CALL_TIME.timed(times, "x", "core"),
            metrics.ACCOUNTS.sample(297, "x", "core", "ok"),
            metrics.ACCOUNTS.sample(3, "x", "core", "failed"),
            metrics.RETRIES.sample(2, "x", "core"),
            metrics.CALLS.sample(1, "x", "profiles", "user_requested"),
            number=2,
        ),
        counted(metrics.CALLS.sample(5, "youtube", "profiles", "retry"), age_s=600),
    )
    with transaction(engine) as conn:
        listed(conn, "goose", "duck", "swan")
        running(conn, batch=2, now=datetime.now(UTC))
        claimed(conn, now=datetime.now(UTC) - timedelta(seconds=30))
    with in_process(found) as api:
        said = performance(api)

    by_queue = {one["queue"]: one for one in said["last_5_minutes"]["scraping"]}
    assert by_queue.keys() == {"x.core", "x.user_requested"}
    core = by_queue["x.core"]
    assert (core["platform"], core["calls"], core["accounts"], core["retries"]) == ("x", 4, 300, 2)
    assert core["success_rate"] == 0.99
    assert core["p50_s"] == pytest.approx(0.1, rel=metrics.ERROR_PCT / 100)
    assert core["p95_s"] == pytest.approx(2.0, rel=metrics.ERROR_PCT / 100)
    assert by_queue["x.user_requested"]["success_rate"] is None, "nothing came to an end"
    assert {one["queue"] for one in said["last_24_hours"]["scraping"]} == {*by_queue, "youtube.retry"}
    (queue,) = said["queues"]
    assert 30 <= queue.pop("oldest_queued_s") < 600
    assert queue == {"queue": "x.core", "backlog": 1, "backlog_accounts": 1, "running": 1}


def test_what_is_used_of_a_limit_follows_from_calls_credentials_and_rates_set_while_running(
    found: Settings, redis_url: str, engine: Engine
) -> None:
    add(engine, counted(metrics.CALLS.sample(15, "x", "profiles", "core")))
    with in_process(found) as api:
        window = performance(api)["last_5_minutes"]
        allowed = 300 / 900 * window["seconds"]
        assert window["scraping"][0]["limit_used_pct"] == pytest.approx(100 * 15 / allowed, rel=0.1)
        with Redis.from_url(redis_url) as redis:
            redis.hset(slots.RATES_KEY, "scrape.x.profiles", b'{"space_s": 0.5, "rate": "2/s"}')
        window = performance(api)["last_5_minutes"]
        assert window["scraping"][0]["limit_used_pct"] == pytest.approx(100 * 15 * 0.5 / window["seconds"], rel=0.1)
        assert series(api.get("/metrics").text)["rollcall_limit_used_ratio", ("profiles", "x")] > 0


def test_of_a_platform_that_cannot_be_called_no_limit_is_invented(
    database_url: str, redis_url: str, engine: Engine
) -> None:
    add(engine, counted(metrics.CALLS.sample(15, "x", "profiles", "core")))
    with in_process(settings(database_url, redis_url)) as api:
        assert performance(api)["last_5_minutes"]["scraping"][0]["limit_used_pct"] is None


def test_what_is_not_known_is_null_with_the_reason(found: Settings, engine: Engine) -> None:
    with in_process(found) as api:
        said = performance(api)
        nothing = {"since_start", "last_24_hours", "last_5_minutes", "recommendations"}
        assert {name for name, value in said.items() if value is None} == {*nothing, "recorded_at", "queries"}
        assert said["unknown"].keys() == {*nothing, "pool", "queries"}
        assert said["pool"] == {"processes": 0, "in_use": None, "most": None}
        assert "DB_PROFILE" in said["unknown"]["queries"]

        add(engine, counted(metrics.CALLS.sample(1, "x", "profiles", "core"), age_s=90))
        said = performance(api)
        assert said["since_start"]["scraping"][0]["calls"] == 1
        assert said["last_5_minutes"] is None, "with a recorder that is behind, nobody knows"
        assert "recorder" in said["unknown"]["last_5_minutes"]


def test_statements_are_shown_where_they_are_counted(database_url: str, redis_url: str, engine: Engine) -> None:
    found = settings(database_url, redis_url, DB_PROFILE="true")
    with in_process(found) as api:
        assert performance(api)["queries"] is None
        assert api.get("/api/totals").status_code == 200
        wait_for(lambda: performance(api)["queries"], "the first report")
        one = performance(api)["queries"][0]
        assert one["count"] > 0 and one["p95_ms"] > 0 and one["statement"]


def test_without_redis_the_rest_is_still_shown(database_url: str, engine: Engine) -> None:
    add(engine, counted(metrics.CALLS.sample(1, "x", "profiles", "core")))
    with in_process(settings(database_url, "redis://127.0.0.1:9")) as api:
        said = performance(api)
        assert said["since_start"]["scraping"][0]["calls"] == 1
        assert "Redis" in said["unknown"]["queries"]
        assert api.get("/metrics").status_code == 200


def test_a_memory_that_is_too_small_and_a_life_that_is_too_short_are_named(found: Settings, engine: Engine) -> None:
    add(
        engine,
        counted(
            metrics.CACHE_ANSWERS.sample(600, "/api/summary", "l1"),
            metrics.CACHE_ANSWERS.sample(400, "/api/summary", "miss"),
            metrics.CACHE_LEFT.sample(300, "/api/summary", "expired"),
            metrics.CACHE_LEFT.sample(100, "/api/grid", "evicted"),
        ),
    )
    with in_process(found) as api:
        said = performance(api)
    assert (said["last_24_hours"]["cache"]["evictions"], said["last_24_hours"]["cache"]["hit_rate"]) == (100, 0.6)
    assert any("CACHE_ENTRIES" in one for one in said["recommendations"])
    assert any("/api/summary" in one and "too short" in one for one in said["recommendations"])


def test_fields_choose_and_faults_are_named(found: Settings) -> None:
    with in_process(found) as api:
        assert api.get("/api/performance?fields=queues,as_of").json.keys() == {"queues", "as_of"}
        assert api.get("/api/performance?fields=quues").status_code == 400
        assert api.get("/api/performance?window=1").status_code == 400
        assert api.ask("HEAD", "/api/performance").status_code == 200


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text; version=1.0.0, text/plain;q=0.5", "application/openmetrics-text"),
        ("text/plain; version=abc", "text/plain"),
        ("application/openmetrics-text; version=", "application/openmetrics-text"),
        ("application/openmetrics-text; version=x; escaping=\xff", "text/plain"),
        (";;;,,,=", "text/plain"),
    ],
)
def test_metrics_come_in_the_format_that_is_asked_for(
    found: Settings, engine: Engine, accept: str, content_type: str
) -> None:
    everything = [
        metric.timed(Times(), *metric.labels) if metric.kind == "timer" else metric.sample(1, *metric.labels)
        for metric in metrics.ALL
        if metric.kind != "gauge"
    ]
    add(engine, counted(*everything))
    with transaction(engine) as conn:
        pauses.add(conn, Pause("x", "1", datetime.now(UTC) + timedelta(hours=1), "429", "limited"))
        listed(conn, "goose", now=datetime.now(UTC) - timedelta(hours=1))
        running(conn, now=datetime.now(UTC) - timedelta(hours=1))
    with in_process(found) as api:
        answer = api.get("/metrics", Accept=accept) if accept else api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(content_type)
    assert answer.headers["cache-control"] == "no-store"
    parse = openmetrics.text_string_to_metric_families if "open" in content_type else text_string_to_metric_families
    families = list(parse(answer.text))
    names = {name for family in families for name in (family.name, f"{family.name}_total")}
    assert set(BY_NAME) <= names, "every metric, with its help, even where it has no series"
    assert all(family.documentation for family in families)
    found_series = {(sample.name, *sample.labels.values()): sample.value for f in families for sample in f.samples}
    assert found_series["rollcall_pauses", "x", "limited"] == 1
    assert found_series["rollcall_jobs_running", "x"] == 1
    assert found_series["rollcall_leases_expired", "x"] == 1
    assert found_series["rollcall_queue_jobs", "core", "youtube"] == 0, "an empty queue is a known one"


def test_what_another_version_counted_is_left_out_of_metrics(found: Settings, engine: Engine) -> None:
    add(engine, counted(Sample("rollcall_gone_total", (), 1), Sample(metrics.CALLS.name, ("x",), 1)))
    with in_process(found) as api:
        text = api.get("/metrics").text
    assert "rollcall_gone" not in text
    assert f"{metrics.CALLS.name}{{" not in text


def test_both_need_a_key_where_reading_does_also_from_loopback(database_url: str, redis_url: str) -> None:
    with in_process(settings(database_url, redis_url, API_REQUIRE_KEY="true")) as api:
        assert api.get("/metrics").status_code == 401
        assert api.get("/api/performance").status_code == 401
