"""A site to look at: accounts of every standing with 60 days of history, behind a real gunicorn."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec import Struct, structs
from sqlalchemy import text

from db import alerts, annotations, bulk, gaps, metrics, pauses, provenance, totals
from db.alerts import Detail, Found
from db.annotations import Subject
from db.bulk import Snapshot
from db.engine import Connection, Engine, transaction
from db.metrics import Counted
from db.pauses import Pause
from db.provenance import Counts, Given
from db.rows import Next, Result
from pipeline import metrics as declared
from pipeline.metrics import Times
from tests.history import snapshot
from tests.serving import add_account, add_job, days_ago, stand

DAYS = 60
GAP = (days_ago(24), days_ago(20))
HOSTILE = '"><img src=x onerror=alert(1)><script>alert(2)</script>'
FILLERS = 120

Fill = Callable[[Engine], None]


class Site(Struct, frozen=True):
    """Where the pages are, and the database behind them."""

    url: str
    engine: Engine
    database_url: str
    redis_url: str


def fill(engine: Engine) -> None:
    """Make a list as people have it: most accounts are read each day, some have gaps, some can't be read."""
    with transaction(engine) as conn:
        read = [
            _read(conn, "x/agency", 1_000_000, 700, display_name="Agency", org_name="Agency", is_core_account=True),
            _read(conn, "youtube/agency", 52_000, 25, display_name="Agency on YouTube", org_name="Agency"),
            _read(conn, "mastodon/agency@social.example", 8_100, -4, org_name="Agency", owner_team="Press"),
            _read(conn, "bluesky/hostile.example", 640, 1, display_name=HOSTILE, bio=HOSTILE, org_name=HOSTILE),
            *(_read(conn, f"x/office{n:03}", 100 + 37 * n, n % 7 - 2, org_name="Office") for n in range(FILLERS)),
        ]
        with_gap = _read(conn, "x/gaps", 40_000, 12, display_name="Some days missing", org_name="Office")
        read.append([row for row in with_gap if not GAP[0] <= row.snapshot_date <= GAP[1]])
        bulk.upsert_snapshots(conn, [row for rows in read for row in rows], source="live")
        day, now = days_ago(10), datetime.now(UTC)
        noted = Subject(account_key=with_gap[0].account_key)
        annotations.add(conn, noted, "Campaign began", first=day, last=day, created_by="tests", now=now)
        blocked = add_account(conn, "facebook/agency", display_name="Agency on Facebook", org_name="Agency")
        stand(conn, blocked, result="blocked", reason="needs FACEBOOK_ACCESS_TOKEN", last_attempt_at=now)
        add_account(conn, "flickr/photos", display_name="Photo desk", org_name="Office")
    add_up(engine)


def add_up(engine: Engine) -> None:
    """Add up the days that are over."""
    while totals.keep(engine, today=days_ago(0), most=DAYS):
        pass


def _read(conn: Connection, name: str, followers: int, a_day: int, **facts: Any) -> list[Snapshot]:
    """Add an account that is read each day, has so many followers today and gained so many a day; return its days."""
    key, now = add_account(conn, name, **facts), datetime.now(UTC)
    stand(conn, key, result="ok", last_attempt_at=now, last_success_at=now, next_due_at=now + timedelta(days=1))
    rows = [
        snapshot(
            key, days_ago(age), followers - age * a_day, following=120, posts=2_000 - age, engagement=90 + age % 7
        )
        for age in range(DAYS)
    ]
    return [structs.replace(rows[0], captured_at=now), *rows[1:]]


def trouble(engine: Engine) -> None:
    """Let some of what can go wrong go wrong, on top of `fill`: days without readings, pauses, waiting jobs, an import."""
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        conn.execute(text("UPDATE dim_account SET added_at = now() - interval '30 days'"))
        wrong: tuple[tuple[str, Result, str], ...] = (
            ("x/slow", "failed", "timed out"),
            ("x/slower", "failed", "timed out"),
            ("bluesky/odd.example", "failed", HOSTILE),
            ("youtube/lost", "gone", "not found"),
        )
        for name, result, reason in wrong:
            key = add_account(conn, name, added_at=now - timedelta(days=12))
            due_at = now + timedelta(days=2 if result == "gone" else 0)
            gaps.record(
                conn, [Next(account_key=key, result=result, reason=reason, failures=1, due_at=due_at)], days_ago(0)
            )
            stand(conn, key, result=result, reason=reason, failures=1, last_attempt_at=now, next_due_at=due_at)
        pauses.add(conn, Pause("x", "1", now + timedelta(hours=1), "429: too many requests", "limited"))
        waiting = {"state": "queued", "accounts": [1, 2], "created_at": now - timedelta(minutes=7)}
        add_job(conn, "00000000-0000-0000-0000-000000000001", lane="core", **waiting)
        add_job(
            conn,
            "00000000-0000-0000-0000-000000000002",
            state="partly_failed",
            accounts=[1, 2, 3],
            created_at=now - timedelta(minutes=9),
            reason=HOSTILE,
        )
        given = Given(file_name=HOSTILE, sha256=None, size_bytes=None, imported_by="tests", overwrite=False)
        one = provenance.begin(conn, given, now=now)
        provenance.advance(conn, one.import_id, Counts(rows=10, inserted=8, rejected=2), rejects_bytes=0)
        alerts.keep(conn, [*_ALERTS], ["drop", "failing", "token"], channels=[], calm_s=300, now=now)


_ALERTS = (
    Found(
        rule="drop",
        subject="1",
        platform="x",
        title="x/agency lost 250,000 followers in a day",
        detail=Detail("1,250,000 → 1,000,000 on 1 Mar 2026, −20.0 %", ["x/agency"]),
    ),
    Found(
        rule="failing",
        subject="bluesky",
        platform="bluesky",
        title="Bluesky: 1,204 accounts failing",
        detail=Detail(HOSTILE, ["bluesky/odd.example", "bluesky/hostile.example"]),
        accounts=1204,
    ),
    Found(
        rule="token",
        subject="THREADS_ACCESS_TOKEN",
        platform="threads",
        title="THREADS_ACCESS_TOKEN ends on 9 Mar 2026",
        detail=Detail("in 5 days, as TOKEN_EXPIRY says: renew it, and restart its platform's worker"),
    ),
)


def measured(engine: Engine) -> None:
    """Let the processes have counted requests and readings of the last day, the more the later."""
    now = datetime.now(UTC)
    messages = []
    for number, age in enumerate((1200, 600, 120, 40, 20, 5, 0), start=1):
        times = Times()
        for took_s in (0.001, 0.001, 0.002, 0.04, 0.3):
            times.add(took_s * number)
        samples = (
            declared.REQUESTS.sample(800 // number, "/api/summary", "2xx"),
            declared.REQUESTS.sample(40, "/api/history/{platform}/{handle}", "3xx"),
            declared.REQUESTS.sample(3, "none", "4xx"),
            declared.REQUESTS.sample(1, "/api/summary", "5xx"),
            declared.REQUEST_TIME.timed(times, "/api/summary"),
            declared.REQUEST_TIME.timed(times, "/api/history/{platform}/{handle}"),
            *(
                declared.CACHE_ANSWERS.sample(count // number, "/api/summary", level)
                for level, count in (("l1", 600), ("l2", 100), ("stale", 20), ("miss", 80))
            ),
            declared.CALLS.sample(3, "x", "profiles", "core"),
            declared.CALL_TIME.timed(times, "x", "core"),
            declared.ACCOUNTS.sample(290, "x", "core", "ok"),
            declared.ACCOUNTS.sample(10, "x", "core", "failed"),
            declared.CALLS.sample(2, "youtube", "profiles", "core"),
            declared.ACCOUNTS.sample(100, "youtube", "core", "ok"),
        )
        at = now - timedelta(minutes=age)
        messages.append(Counted(sender="tests", role="api", number=number, at=at, samples=samples))
    with transaction(engine) as conn:
        metrics.add(conn, messages, oldest=now - timedelta(days=2))
