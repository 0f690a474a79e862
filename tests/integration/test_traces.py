"""What a request sets off, followed by its id in the logs and by its trace: API, broker, worker, platform, database."""

import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from db import keys
from db.engine import Engine, transaction
from pipeline.accounts import import_list
from tests.collector import Collector, Span, collector
from tests.serving import gunicorn
from tests.system import system

PATIENCE_S = 60.0
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "planted0collector0token"


@pytest.fixture
def collecting() -> Iterator[Collector]:
    with collector() as came:
        yield came


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text().splitlines() if f'"event": "{event}"' in line]


def test_a_request_is_followed_to_the_last_statement_that_it_sets_off(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path, collecting: Collector
) -> None:
    import_list(engine, b"platform,handle\nx,agency\nx,bureau", now=datetime.now(UTC))
    with transaction(engine) as conn:
        token = keys.create(conn, name="Ann", scopes=["refresh"])
    logs = tmp_path / "logs"
    settings = {
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collecting.url,
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer%20{SECRET}",
    }
    with system(database_url, redis_url, logs, **settings) as (processes, simulator):
        processes.worker("x")
        given = {**settings, "SIMULATOR_URL": simulator.url}
        with gunicorn(database_url, redis_url, tmp_path, workers=1, **given) as server:
            asked = urllib.request.Request(
                f"http://127.0.0.1:{server.port}/api/refresh?",
                data=b'{"accounts": ["x/agency"]}',
                headers={
                    "Authorization": f"Bearer {token}",
                    "X-Request-ID": "asked-17",
                    "traceparent": f"00-{TRACE}-{CALLER}-01",
                    "Content-Type": "application/json",
                },
            )
            with urllib.request.urlopen(asked, timeout=PATIENCE_S) as answer:
                assert answer.status == 202
                assert answer.headers["X-Request-ID"] == "asked-17"

            def finished(request_id: str) -> list[dict[str, Any]]:
                said = [line for log in logs.iterdir() for line in lines(log, "job_finished")]
                return [line for line in said if line.get("request_id") == request_id]

            (done,) = processes.wait(lambda: finished("asked-17"), within_s=PATIENCE_S, what="the job's line")
            assert done["outcome"] == "succeeded" and done["process"] == "worker_x"
            processes.wait(
                lambda: [
                    line
                    for line in lines(tmp_path / "api.log", "purge_heard")
                    if line.get("request_id") == "asked-17"
                ],
                within_s=PATIENCE_S,
                what="its purge, heard by the API",
            )
            (closed,) = [line for line in lines(tmp_path / "api.log", "request") if line["request_id"] == "asked-17"]
            assert (closed["endpoint"], closed["status"]) == ("/api/refresh", 202)
            assert closed["key"] == token.split("_")[1]
            said = subprocess.run(
                [Path(sys.executable).parent / "rollcall", "enqueue", "x/bureau", "--json"],
                env=processes.environ,
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=True,
            )
            of_command = json.loads(said.stdout)["request_id"]
            processes.wait(lambda: finished(of_command), within_s=PATIENCE_S, what="the job of the command")
            ours = processes.wait(
                lambda: _whole(collecting.spans), within_s=PATIENCE_S, what="the spans of the request and its job"
            )
    _tells_a_story(ours)
    assert {headers["authorization"] for headers in collecting.headers} == {f"Bearer {SECRET}"}
    assert b"agency" not in collecting.wire, "no value of a statement, no query"
    for secret in (SECRET, token, token.split("_")[2]):
        assert secret.encode() not in collecting.wire
        assert secret not in processes.said() + (tmp_path / "api.log").read_text()


def _whole(spans: list[Span]) -> dict[str, list[Span]] | None:
    """Return the spans of the trace by their names, once those came that end last."""
    named: dict[str, list[Span]] = {}
    for span in list(spans):
        if span.trace_id == TRACE:
            named.setdefault(span.name, []).append(span)
    return named if {"POST /api/refresh", "job x.resolve"} <= named.keys() else None


def _tells_a_story(named: dict[str, list[Span]]) -> None:
    (request,) = named.pop("POST /api/refresh")
    (publishing,) = named.pop("publish jobs")
    (job,) = named.pop("job x.resolve")
    (call,) = named.pop("GET x")
    assert [request.parent_id, publishing.parent_id, job.parent_id, call.parent_id] == [
        CALLER,
        request.span_id,
        publishing.span_id,
        job.span_id,
    ]
    assert [request.service, job.service] == ["rollcall-api", "rollcall-worker-x"]
    assert request.attributes["rollcall.request_id"] == "asked-17"
    assert request.attributes["http.response.status_code"] == "202"
    assert job.attributes["rollcall.outcome"] == "succeeded"
    assert call.attributes["http.response.status_code"] == "200"
    statements = [span for some in named.values() for span in some]
    for span in statements:
        assert span.attributes["db.query.text"].startswith(span.name)
        assert len(span.attributes["rollcall.fingerprint"]) == 8
    assert {span.parent_id for span in statements} == {request.span_id, job.span_id}
    assert {span.name for span in statements if span.parent_id == job.span_id} >= {"SELECT", "INSERT", "UPDATE"}


def test_a_collector_that_is_away_costs_nothing_but_the_spans(
    database_url: str, redis_url: str, engine: Engine, tmp_path: Path
) -> None:
    import_list(engine, b"platform,handle\nx,agency", now=datetime.now(UTC))
    with system(database_url, redis_url, tmp_path / "logs", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9") as (
        processes,
        _,
    ):
        worker = processes.worker("x")
        processes.start("pipeline.beat")
        processes.wait(lambda: "job_finished" in processes.said(), within_s=PATIENCE_S, what="a job")
        processes.wait(lambda: "traces_lost" in processes.said(), within_s=PATIENCE_S, what="a word of it")
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(PATIENCE_S) == 0
        assert "Traceback" not in processes.said()
        assert processes.said().count("traces_lost") == 1


def test_without_a_collector_nothing_of_it_needs_to_be_there(project: Path) -> None:
    check = (
        "import sys\n"
        "sys.modules['opentelemetry'] = None\n"  # as where it isn't installed
        "import api.app, workers.app, pipeline.cli\n"
        "from pipeline import tracing\n"
        "from tests.fakes import settings\n"
        "tracing.configure(settings('postgresql:///x', 'redis://x'), 'api')\n"
        "with tracing.span('nothing', 'server'): tracing.tell({'said': 1})\n"
        "tracing.close()\n"
        "print(tracing.is_on(), 'pipeline.otel' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", check], cwd=project, capture_output=True, text=True, check=True)
    assert said.stdout == "False False\n"
