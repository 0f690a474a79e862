"""/health: the page has the very numbers of the rows and of GET /api/health/data, in words."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import redis

from api.dashboard.data_health import Square, sentence
from db import gaps, pauses, provenance
from db.coverage import Coverage
from db.engine import Engine, transaction
from db.pauses import Pause
from db.provenance import Counts, Given
from db.rows import Next
from pipeline import platforms
from pipeline.platforms import midnight_before
from tests import fakes
from tests.browser.site import HOSTILE
from tests.history import keep
from tests.serving import InProcess, add_account, add_job, days_ago, in_process, stand, words
from workers.allowance import SharedAllowance

KEYS = {"YOUTUBE_API_KEY": "s3cret-one", "YOUTUBE_API_KEY_2": "s3cret-two", "X_BEARER_TOKEN": "s3cret-x"}
YOUTUBE = platforms.load()["youtube"]


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, **KEYS)) as api:
        yield api


def test_an_empty_list_invents_nothing(api: InProcess) -> None:
    assert "The list is empty" in words(api, "/health")
    assert "%" not in words(api, "/health")


def test_today_is_what_the_api_says(api: InProcess, engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        read = add_account(conn, "x/read")
        stand(conn, read, result="ok", last_attempt_at=now, last_success_at=now)
        for name in ("x/one", "x/two"):
            stand(conn, add_account(conn, name), result="failed", reason="timed out", last_attempt_at=now)
    page, said = words(api, "/health"), api.get("/api/health/data").json
    assert said["coverage"]["pct"] == 33.33
    assert "33.3 % 1 of 3 accounts due today" in page
    assert "2 2 failing, 0 blocked, 0 gone" in page
    assert re.search(r"timed out X failing 2 ", page)
    assert f"${said['usd_per_day']:.2f}" in page


def test_each_day_says_its_share_and_its_reasons_and_a_platform_can_be_asked_for(
    api: InProcess, engine: Engine
) -> None:
    added_at = datetime.now(UTC) - timedelta(days=10)
    with transaction(engine) as conn:
        read = add_account(conn, "x/read", added_at=added_at)
        keep(conn, read, *(days_ago(ago) for ago in range(1, 10)))
        failed = add_account(conn, "bluesky/failed.example", added_at=added_at)
        gaps.record(
            conn,
            [Next(account_key=failed, result="failed", reason="timed out", failures=1, due_at=added_at)],
            days_ago(3),
        )
    all_, x = words(api, "/health"), words(api, "/health?platform=x")
    day = f"{days_ago(3):%-d} {days_ago(3):%B}: 50 % 1 of 2"
    assert day in all_.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{days_ago(3):%-d} {days_ago(3):%B}: 100 % 1 of 1" in x.replace("\N{NO-BREAK SPACE}", " ")
    assert f"{days_ago(3):%-d %b %Y} 1 of 2 1 1 failed: timed out" in all_
    assert "failed: timed out" not in x
    assert "– no list yet" in all_


def test_a_quota_is_told_as_the_api_tells_it_and_credentials_by_name_never_by_value(
    api: InProcess, engine: Engine, redis_url: str
) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
        pauses.add(conn, Pause("youtube", "2", now + timedelta(hours=1), "YOUTUBE_API_KEY isn't valid", "blocked"))
    with redis.Redis.from_url(redis_url) as store:
        allowance = SharedAllowance(store)
        allowance.reserve("scrape.youtube.profiles", YOUTUBE, ["1"], space_s=0.0, requests=7)
        assert YOUTUBE.quota
        store.set("rollcall:allowance:since", midnight_before(now, YOUTUBE.quota.zone).timestamp() - 1)
    page = words(api, "/health")
    assert "7 used, 19,993 left of 20,000" in page
    assert "YouTube YOUTUBE_API_KEY_2 blocked YOUTUBE_API_KEY isn't valid" in page
    assert "s3cret" not in api.get("/health").text


def test_queues_jobs_and_imports_are_those_that_there_are(api: InProcess, engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        add_account(conn, "x/someone")
        waiting = {"lane": "retry", "state": "queued", "accounts": [1, 2, 3]}
        add_job(conn, "00000000-0000-0000-0000-000000000001", created_at=now - timedelta(hours=2), **waiting)
        add_job(conn, "00000000-0000-0000-0000-000000000002", created_at=now, state="failed", reason="our bug")
        given = Given(file_name="old.csv", sha256=None, size_bytes=None, imported_by="tests", overwrite=False)
        one = provenance.begin(conn, given, now=now)
        provenance.advance(conn, one.import_id, Counts(rows=10, inserted=7, updated=1, rejected=2), rejects_bytes=0)
        provenance.finish(conn, one.import_id, now=now)
    page = words(api, "/health")
    assert "x.retry 1 3 accounts" in page
    assert "2 hours ago" in page
    assert re.search(r"X profiles 0 accounts, core failed our bug", page)
    assert "10 finished 7 new, 1 changed, 2 rejected" in page


def test_what_a_platform_or_a_person_wrote_stays_text(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/someone")
        stand(conn, key, result="failed", reason=HOSTILE, last_attempt_at=datetime.now(UTC))
        gaps.record(
            conn,
            [Next(account_key=key, result="failed", reason=HOSTILE, failures=1, due_at=datetime.now(UTC))],
            days_ago(0),
        )
        pauses.add(conn, Pause("x", HOSTILE, datetime.now(UTC) + timedelta(hours=1), HOSTILE, "limited"))
        add_job(conn, "00000000-0000-0000-0000-000000000001", reason=HOSTILE, created_at=datetime.now(UTC))
    body = api.get("/health").text
    assert "<img" not in body and "<script>alert" not in body
    assert words(api, "/health").count(HOSTILE) >= 4


def test_without_redis_it_says_what_it_cannot_tell(database_url: str, engine: Engine) -> None:
    with transaction(engine) as conn:
        add_account(conn, "youtube/someone")
    with in_process(fakes.settings(database_url, "redis://127.0.0.1:9/0", **KEYS)) as api:
        page = words(api, "/health")
        said = api.get("/api/health/data").json["unknown"]
    assert "Quota: Redis, which counts what is used of the quotas, can't be reached." in page
    assert said.keys() == {"quota"}
    assert "– used, – left of 20,000" in page
    assert "0 of 1 accounts due today" in page


def test_a_platform_that_is_none_is_refused_by_name(api: InProcess) -> None:
    answer = api.get("/health?platform=myspace")
    assert answer.status_code == 400
    assert answer.json["errors"][0]["field"] == "platform"


def test_a_calendar_is_said_in_one_sentence() -> None:
    def square(ago: int, read: int, **missed: int) -> Square:
        of = Coverage(listed=10, read=read, missed=missed, excused={})
        return Square(day=days_ago(ago), of=of, pct=int(of.pct or 0), shade="")

    none = Square(day=days_ago(3), of=Coverage(listed=0, read=4, missed={}, excused={}), pct=None, shade="unknown")
    assert sentence([none]) == "No account that should have been read was in the list on any of these days."
    begin = f"Since {days_ago(2):%-d %b %Y} every account that was due was read on "
    assert sentence([none, square(2, 10), square(1, 10)]) == f"{begin}2 of 2 days."
    assert sentence([none, square(2, 10), square(1, 7, down=2, lost=1)]) == (
        f"{begin}1 of 2 days; fewest on {days_ago(1):%-d %b %Y}: 7 of 10 (70 %)."
        " The most frequent reason then, of 2: down."
    )
