"""A real Prometheus, configured as `deploy/` has it, that scrapes a real API: what it is told, and what its rules and board find."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from db import keys, metrics, pauses
from db.engine import Engine, transaction
from db.metrics import Counted, Sample
from db.pauses import Pause
from pipeline import metrics as declared
from pipeline.metrics import Times
from tests.fakes import settings
from tests.jobs import listed, running
from tests.prometheus import HOW_TO_GET_IT, Asked, Prometheus, asked, configuration, programs, prometheus
from tests.serving import gunicorn, wait_for
from workers import recorder

pytestmark = pytest.mark.skipif(programs() is None, reason=HOW_TO_GET_IT)


@pytest.fixture
def recorded(database_url: str, redis_url: str, engine: Engine) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=recorder.run, args=(settings(database_url, redis_url), engine, stop))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def of_everything() -> Iterator[Sample]:
    """Yield something of each kind that is counted."""
    times = Times()
    times.add(0.25)
    yield declared.REQUEST_TIME.timed(times, "/api/summary")
    yield from (declared.REQUESTS.sample(5, "/api/summary", status) for status in ("2xx", "5xx"))
    yield from (declared.CACHE_ANSWERS.sample(5, "/api/summary", level) for level in ("l1", "l2", "stale", "miss"))
    yield from (declared.CACHE_LEFT.sample(5, "/api/summary", reason) for reason in declared.LEFT)
    yield from (declared.CACHE_PURGES.sample(5), declared.READ_WAIT.timed(times))
    yield from (
        declared.JOBS.sample(4, "x", "profiles", "core", "succeeded"),
        declared.CALL_TIME.timed(times, "x", "core"),
    )
    yield from (declared.CALLS.sample(4, "x", "profiles", "core"), declared.RETRIES.sample(2, "x", "core"))
    yield from (declared.ACCOUNTS.sample(count, "x", "core", end) for end, count in (("ok", 297), ("failed", 3)))


def test_prometheus_learns_by_a_key_what_is_counted_and_its_rules_and_board_find_it(
    database_url: str, redis_url: str, engine: Engine, recorded: None, tmp_path: Path
) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        key = keys.create(conn, name="prometheus", scopes=[])
        message = Counted(sender="worker-1", role="worker", number=1, at=now, samples=tuple(of_everything()))
        metrics.add(conn, [message], oldest=now - timedelta(days=1))
        pauses.add(conn, Pause("youtube", "1", now + timedelta(hours=1), "401", "blocked"))
        listed(conn, "goose", now=now - timedelta(hours=2))
        running(conn, now=now - timedelta(hours=1))
        listed(conn, "duck", now=now - timedelta(hours=1))
    environ = {"API_REQUIRE_KEY": "true", "SIMULATOR_URL": "http://127.0.0.1:9", "LOG_LEVEL": "warning"}
    with gunicorn(database_url, redis_url, tmp_path, workers=1, **environ) as api:
        assert api.get("/metrics")[0] == 401
        with prometheus(configuration(tmp_path, port=api.port, key=key, often=True)) as found:
            known = 'rollcall_scrape_accounts_total{job="rollcall", platform="x", lane="core"}'
            wait_for(lambda: values(found, known, "result") == {"ok": 297, "failed": 3}, "the accounts read")
            timed = "rollcall_scrape_duration_seconds_bucket"
            wait_for(lambda: values(found, timed, "le").get("0.33") == 1, "the time of a job")
            unanswered = asked()

            def all_answered() -> bool:
                unanswered[:] = [one for one in unanswered if not is_answered(found, one)]
                return not unanswered

            try:
                wait_for(all_answered, "answers to all that the board asks")
            except AssertionError as exc:
                raise AssertionError(f"nothing comes of {unanswered}") from exc

            def states() -> dict[str, str]:
                assert all(rule["health"] != "err" for rule in found.rules()), found.rules()
                return {rule["name"]: rule["state"] for rule in found.rules()}

            expected = {"RollcallCredentialBlocked": "pending", "RollcallLeasesExpired": "pending"}
            expected |= {"RollcallUnreachable": "inactive", "RollcallNothingRecorded": "inactive"}
            wait_for(lambda: expected.items() <= states().items(), f"alerts: {expected}")


def values(found: Prometheus, expression: str, label: str) -> dict[str, float]:
    return {labels[label]: value for labels, value in found.query(expression)}


def is_answered(found: Prometheus, one: Asked) -> bool:
    """Tell whether something comes of an expression, each series with what its legend names."""
    answer = found.query(one.expression)
    named = set(re.findall(r"{{(\w+)}}", one.legend))
    return bool(answer) and all(named <= labels.keys() for labels, _ in answer)
