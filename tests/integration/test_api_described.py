"""Whatever `/openapi.json` says is so: schemathesis asks a real gunicorn all that it describes, and all that it forbids."""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import insert

from db import annotations, keys
from db.annotations import Subject
from db.engine import Engine, transaction
from db.models import scrape_job
from tests.serving import Gunicorn, add_account, days_ago, gunicorn, keep

# The same requests every time, unless more are asked for: SCHEMATHESIS_SECONDS=1800 goes on that long, with others.
SECONDS = os.environ.get("SCHEMATHESIS_SECONDS")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
LEAST_CASES = 1000
JOB = "0198c9a4-7a53-7c1e-9d0b-3f6a2b8e4c11"


@pytest.fixture
def server(database_url: str, redis_url: str, engine: Engine, tmp_path: Path) -> Iterator[Gunicorn]:
    with transaction(engine) as conn:
        for name in ("x/hhsgov", "youtube/hhsgov", "mastodon/agency@social.example", "reddit/nobody"):
            key = add_account(conn, name, display_name=f"“{name}”", org_name="HHS")
            for day in range(0 if name == "reddit/nobody" else 9, 0, -1):
                keep(conn, key, 100 + day, days_ago(day - 1), following=None, posts=day)
        now = datetime.now(UTC)
        said = {"platform": "x", "kind": "profiles", "lane": "user_requested", "state": "queued", "accounts": [1]}
        conn.execute(
            insert(scrape_job).values(job_id=JOB, requested_by="api:a", lease_until=now, created_at=now, **said)
        )
        for number in range(1, 20):
            annotations.add(
                conn, Subject(), f"Note {number}", first=days_ago(3), last=days_ago(2), created_by="test", now=now
            )
    # Every platform can be read (nothing is, here), and nothing is to be had without a key. The limits are no obstacle.
    more = {"SIMULATOR_URL": "http://127.0.0.1:9", "API_REQUIRE_KEY": "true"}
    more |= {"API_RATE_LIMIT": "1000000/1m", "API_RATE_LIMIT_KEY": "1000000/1m"}
    more |= {"LIVE_STREAM_S": "0.2"}  # what is due here is never read
    with gunicorn(database_url, redis_url, tmp_path, workers=1, **more) as server:
        yield server


def test_the_api_does_what_its_document_says(server: Gunicorn, engine: Engine, tmp_path: Path, project: Path) -> None:
    with transaction(engine) as conn:
        token = keys.create(conn, name="tester", scopes=["refresh", "admin"])
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"),
        *(("--max-time", SECONDS) if SECONDS else ("--generation-deterministic",)),
        *("--report", "ndjson", "--report-ndjson-path", str(tmp_path / "run.ndjson")),
        f"http://127.0.0.1:{server.port}/openapi.json",
    ]
    ended = subprocess.run(
        command,
        cwd=tmp_path,  # where it leaves what it found
        env={**os.environ, "PYTHONPATH": str(project), "ROLLCALL_KEY": token, "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=900 + int(SECONDS or 0),
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Traceback" not in (tmp_path / "api.log").read_text()
    asked, followed = _counted(tmp_path / "run.ndjson")
    assert sum(asked.values()) >= LEAST_CASES, asked
    # A run that never gets past the door would find nothing, either.
    succeeded = {operation for operation, status in asked if 200 <= status < 300}
    assert succeeded >= {operation for operation, _ in asked}, sorted(asked)
    assert any(" -> [202] getJobs" in link for link in followed), followed
    assert any(" -> GET /api/history/" in link for link in followed), followed


def _counted(report: Path) -> tuple[Counter[tuple[str, int]], Counter[str]]:
    """Return how often each operation answered with each status, and how often each link was followed."""
    asked: Counter[tuple[str, int]] = Counter()
    followed: Counter[str] = Counter()
    for line in report.read_text().splitlines():
        recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
        for name, case in recorder.get("cases", {}).items():
            if case.get("transition"):
                followed[case["transition"]["id"]] += 1
            answer = recorder["interactions"].get(name, {}).get("response") or {"status_code": 405}
            if answer["status_code"] != 405 and case["value"]["method"] != "OPTIONS":
                asked[f"{case['value']['method']} {case['value']['path']}", answer["status_code"]] += 1
    return asked, followed
