"""`rollcall db profile`: what the statements of a running API cost, told by another process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from click.testing import Result

from api import profiling
from db.engine import Engine, transaction
from pipeline import profiles
from tests import fakes
from tests.serving import add_account, gunicorn, in_process, wait_for


@pytest.fixture
def add_accounts(engine: Engine) -> None:
    with transaction(engine) as conn:
        for name in ("one", "two"):
            add_account(conn, f"x/{name}")


def _reports(redis_url: str) -> list[profiles.Report]:
    with redis.Redis.from_url(redis_url) as client:
        return profiles.kept(client)


def test_the_statements_of_every_gunicorn_worker_are_added_up(
    add_accounts: None,
    database_url: str,
    redis_url: str,
    rollcall: Callable[..., Result],
    tmp_path: Path,
) -> None:
    with gunicorn(database_url, redis_url, tmp_path, workers=2, DB_PROFILE="true") as server:
        for times, worker in enumerate(server.workers, start=1):
            for page in range(times):
                assert server.get(f"/api/summary?q=secret{times}{page}", worker)[0] == 200

        def count() -> int:
            shown = json.loads(rollcall("db", "profile", "--json").stdout)
            return sum(one["count"] for one in shown["statements"] if "SELECT count(*)" in one["statement"])

        wait_for(lambda: count() == 3, "the three reads of both workers")
        shown = rollcall("db", "profile")
    assert shown.exit_code == 0
    lines = [line for line in shown.stdout.splitlines() if "SELECT count(*)" in line]
    assert [line.split("\t")[1] for line in lines] == ["3"]
    assert "2 processes" in shown.stderr
    with redis.Redis.from_url(redis_url) as client:
        assert not any(b"secret" in client.get(key) for key in client.scan_iter(f"{profiles.KEY}*"))


def test_without_a_profile_the_command_says_how_to_get_one(rollcall: Callable[..., Result]) -> None:
    shown = rollcall("db", "profile")
    assert (shown.exit_code, shown.stdout) == (0, "")
    assert "DB_PROFILE=true" in shown.stderr


def test_what_an_older_version_left_in_redis_is_passed_over(redis_url: str, rollcall: Callable[..., Result]) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.set(f"{profiles.KEY}host:1", b"\x81\xa5since")
        client.set(f"{profiles.KEY}host:2", b"{}")
    assert rollcall("db", "profile").exit_code == 0


def test_a_slow_statement_is_shown_with_its_request(
    add_accounts: None,
    database_url: str,
    redis_url: str,
    rollcall: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(profiling, "EVERY_S", 0.05)
    settings = fakes.settings(database_url, redis_url, DB_PROFILE="true", DB_SLOW_MS="0.001")
    with in_process(settings) as api:
        assert api.get("/api/accounts/x/one").status_code == 200
        wait_for(lambda: any(report.tallies for report in _reports(redis_url)), "the report")
        shown = rollcall("db", "profile")
    assert "in /api/accounts/{platform}/{handle:path}" in shown.stderr


def test_nothing_is_counted_unless_asked_for(
    add_accounts: None, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(profiling, "EVERY_S", 0.01)
    with in_process(fakes.settings(database_url, redis_url)) as api:
        assert api.get("/api/summary").status_code == 200
        api.wait_until_it_hears_purges()
    assert _reports(redis_url) == []
