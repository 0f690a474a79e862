"""How complete today is, as the API tells it: what is known exactly, and null where nothing is."""

from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
import redis
from sqlalchemy import event, text

from db import pauses
from db.engine import Engine, transaction
from db.pauses import Pause
from pipeline import platforms
from pipeline.platforms import midnight_after, midnight_before
from tests import fakes
from tests.serving import InProcess, add_account, in_process, purger, stand, wait_for
from workers.allowance import SharedAllowance

MIDNIGHT = datetime.combine(datetime.now(UTC).date(), time(), UTC)
PATH = "/api/health/data"
YOUTUBE = platforms.load()["youtube"]
KEYS = {"YOUTUBE_API_KEY": "one", "YOUTUBE_API_KEY_2": "two", "X_BEARER_TOKEN": "x"}


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, **KEYS)) as api:
        yield api


@pytest.fixture
def store(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as store:
        yield store


def of(answer: Any, name: str) -> Mapping[str, Any]:
    """Return what an answer says of a platform."""
    (found,) = [one for one in answer.json["platforms"] if one["platform"] == name]
    return found  # type: ignore[no-any-return]


def test_coverage_counts_what_should_be_read_today_and_what_has_been(api: InProcess, engine: Engine) -> None:
    now = datetime.now(UTC)
    yesterday, tomorrow = MIDNIGHT - timedelta(seconds=1), MIDNIGHT + timedelta(days=1)
    stands: dict[str, dict[str, Any]] = {
        "read": {"result": "ok", "last_attempt_at": now, "last_success_at": now, "next_due_at": tomorrow},
        "due": {"result": "ok", "last_attempt_at": yesterday, "last_success_at": yesterday},
        "later": {
            "result": "ok",
            "last_attempt_at": yesterday,
            "last_success_at": yesterday,
            "next_due_at": tomorrow,
        },
        "failing": {"result": "failed", "reason": "timed out", "last_attempt_at": now, "next_due_at": tomorrow},
        "never": {},
        "gone": {"result": "gone", "reason": "not found", "last_attempt_at": now},
        "blocked": {"result": "blocked", "reason": "needs X_BEARER_TOKEN", "last_attempt_at": now},
    }
    with transaction(engine) as conn:
        for name, state in stands.items():
            stand(conn, add_account(conn, f"x/{name}"), failures=0, **state)
        stand(conn, add_account(conn, "x/paused", is_active=False), next_due_at=text("'infinity'"))
        stand(conn, add_account(conn, "bluesky/other"), **stands["failing"])
    answer = api.get(PATH)
    assert answer.json["coverage"] == {"day": str(MIDNIGHT.date()), "expected": 6, "read": 1, "pct": 16.67}
    x = of(answer, "x")
    assert (x["accounts"], x["expected"], x["read"]) == (8, 5, 1)
    by_status = answer.json["by_status"]
    assert sum(by_status.values()) == 9
    assert (by_status["failing"], by_status["blocked"], by_status["gone"], by_status["paused"]) == (2, 1, 1, 1)
    assert (by_status["fresh"], by_status["stale"], by_status["never"]) == (3, 0, 1)
    assert answer.json["by_reason"] == [
        {"status": "failing", "platform": "bluesky", "reason": "timed out", "accounts": 1},
        {"status": "blocked", "platform": "x", "reason": "needs X_BEARER_TOKEN", "accounts": 1},
        {"status": "failing", "platform": "x", "reason": "timed out", "accounts": 1},
        {"status": "gone", "platform": "x", "reason": "not found", "accounts": 1},
    ]
    assert answer.json["other_reasons"] == 0
    assert datetime.fromisoformat(answer.json["as_of"]) == now


def test_nothing_listed_is_no_coverage_and_no_invented_number(api: InProcess) -> None:
    answer = api.get(PATH).json
    assert answer["coverage"] == {"day": str(MIDNIGHT.date()), "expected": 0, "read": 0, "pct": None}
    assert (answer["as_of"], answer["platforms"], answer["by_reason"], answer["usd_per_day"]) == (None, [], [], 0.0)


def test_many_reasons_are_cut_and_the_accounts_behind_them_counted(
    api: InProcess, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.resources.data_health.MOST_REASONS", 1)
    with transaction(engine) as conn:
        for number in range(4):
            reason = "often" if number < 2 else f"path {number}"
            stand(conn, add_account(conn, f"x/a{number}"), result="failed", reason=reason)
    answer = api.get(PATH).json
    assert [(one["reason"], one["accounts"]) for one in answer["by_reason"]] == [("often", 2)]
    assert answer["other_reasons"] == 2


def test_a_quota_is_what_redis_has_counted_since_the_day_s_begin(
    api: InProcess, engine: Engine, store: redis.Redis
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
    allowance = SharedAllowance(store)
    allowance.reserve("scrape.youtube.profiles", YOUTUBE, ["1"], space_s=0.0, requests=7)
    now = datetime.now(UTC)
    begins_at = midnight_before(now, YOUTUBE.quota.zone)
    store.set("rollcall:allowance:since", begins_at.timestamp() - 1)
    quota = of(api.get(PATH), "youtube")["quota"]
    per_day = YOUTUBE.quota.per_day
    assert quota["credentials"] == [
        {"credential": "1", "used": 7, "left": per_day - 7},
        {"credential": "2", "used": 0, "left": per_day},
    ]
    assert (quota["per_day"], quota["used"], quota["left"]) == (per_day, 7, 2 * per_day - 7)
    assert datetime.fromisoformat(quota["renewed_at"]) == midnight_after(now, YOUTUBE.quota.zone)
    assert datetime.fromisoformat(quota["counted_since"]) < begins_at


def test_what_redis_forgot_or_never_knew_is_unknown(api: InProcess, engine: Engine, store: redis.Redis) -> None:
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
        add_account(conn, "x/someone")
        add_account(conn, "tiktok/someone")
    answer = api.get(f"{PATH}?fields=platforms")
    quota = of(answer, "youtube")["quota"]
    assert (quota["used"], quota["left"], quota["counted_since"]) == (None, None, None)
    assert of(answer, "x")["quota"] is None  # X publishes none by the day
    assert of(answer, "tiktok")["quota"] is None  # it can't be read
    assert of(answer, "tiktok")["why_not"] == "needs TIKTOK_CLIENT_KEY and TIKTOK_CLIENT_SECRET"
    assert of(answer, "tiktok")["usd_per_day"] is None
    SharedAllowance(store).reserve("scrape.youtube.profiles", YOUTUBE, ["2"], space_s=0.0, requests=3)
    quota = of(api.get(PATH), "youtube")["quota"]
    assert quota["credentials"][1] == {"credential": "2", "used": 3, "left": None}  # there may have been more today
    assert (quota["used"], quota["left"]) == (3, None)


def test_a_spent_quota_and_a_pause_are_told(api: InProcess, engine: Engine) -> None:
    until = datetime.now(UTC) + timedelta(hours=1)
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
        pauses.add(conn, Pause("youtube", "1", until, "the day's quota of 10,000 is spent", "quota"))
        pauses.add(conn, Pause("x", "1", until, "429", "limited"))
    youtube = of(api.get(PATH), "youtube")
    assert youtube["quota"]["credentials"][0] == {"credential": "1", "used": None, "left": 0}
    (pause,) = youtube["pauses"]
    assert (pause["credential"], pause["result"]) == ("1", "quota")
    assert datetime.fromisoformat(pause["until"]) == until
    assert {"kind": "profiles", "limit": "10000/86400s", "batch": 50} not in youtube["limits"]
    assert {limit["kind"] for limit in youtube["limits"]} == set(YOUTUBE.calls)


def test_a_day_costs_what_its_readings_do(database_url: str, redis_url: str, engine: Engine) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/daily")
        add_account(conn, "x/hourly", read_interval_s=3_600)
        add_account(conn, "x/paused", is_active=False)
        add_account(conn, "bluesky/free")
    settings = fakes.settings(database_url, redis_url, X_BEARER_TOKEN="x", READ_INTERVAL_S_X="43200", POSTS_PAGES="2")
    calls = platforms.load()["x"].calls
    with in_process(settings) as api:
        answer = api.get(PATH)
    profiles, posts = (2 + 24) * calls["profiles"].price_usd, 2 * 2 * calls["posts"].price_usd
    assert of(answer, "x")["usd_per_day"] == pytest.approx(profiles + posts)
    assert of(answer, "bluesky")["usd_per_day"] == 0.0
    assert answer.json["usd_per_day"] == of(answer, "x")["usd_per_day"]


def test_it_is_cached_until_a_reading_changes_it(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/someone")
    api.wait_until_it_hears_purges()
    assert api.get(PATH).headers["x-cache"] == "miss"
    hit = api.get(PATH)
    assert (hit.headers["x-cache"], hit.headers["surrogate-key"]) == ("l1", "accounts summary")
    assert api.get(PATH, If_None_Match=hit.headers["etag"]).status_code == 304
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        stand(conn, key, result="ok", last_attempt_at=now, last_success_at=now)
    purger(fakes.settings(database_url, redis_url)).purge({"summary"})
    wait_for(lambda: api.get(PATH).json["coverage"]["read"] == 1, "the purge")


def test_without_redis_all_but_the_quotas_is_told(database_url: str, engine: Engine) -> None:
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
    with in_process(fakes.settings(database_url, "redis://127.0.0.1:9/0", **KEYS)) as api:
        answer = api.get(PATH)
    assert answer.json["coverage"]["expected"] == 1
    assert of(answer, "youtube")["quota"]["left"] is None


def test_it_costs_a_few_statements_and_no_history(api: InProcess, engine: Engine) -> None:
    sent: list[str] = []
    event.listen(api.engine, "before_cursor_execute", lambda *args: sent.append(args[2]))
    with transaction(engine) as conn:
        for name in ("x", "youtube", "mastodon"):
            add_account(conn, f"{name}/someone@server.example" if name == "mastodon" else f"{name}/someone")
    assert api.get(PATH).status_code == 200
    assert len(sent) <= 3, sent
    assert not any("fact_" in statement for statement in sent)


def test_a_day_s_quota_begins_at_its_own_midnight() -> None:
    zone = "America/Los_Angeles"
    ends = date(2026, 11, 1)  # 25 hours long
    for hour in (0, 12, 23):
        now = datetime(ends.year, ends.month, ends.day, 7, tzinfo=UTC) + timedelta(hours=hour)
        assert midnight_before(now, zone) == datetime(2026, 11, 1, 7, tzinfo=UTC)
        assert midnight_after(now, zone) == datetime(2026, 11, 2, 8, tzinfo=UTC)
