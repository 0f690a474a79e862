"""The pages by what they ask of the database and what they refuse; how they look and are used is in tests/browser."""

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from sqlalchemy import event, insert, text

from api.dashboard.assets import assets
from api.dashboard.look import moment
from db import bulk, derived, gaps
from db.engine import Engine, reading, transaction
from db.models import scrape_state
from tests import fakes
from tests.browser.site import add_up
from tests.fakes import NOON
from tests.history import snapshot
from tests.serving import InProcess, add_account, days_ago, in_process, stand

ACCOUNTS, DAYS, ORGS = 3_000, 40, 30
FILL = """
    INSERT INTO dim_account (platform, handle, external_id, url, org_name)
    SELECT (ARRAY['x', 'youtube', 'bluesky'])[1 + n % 3], 'h' || n, 'id' || n, 'https://x.example/' || n, 'org' || n % :orgs
    FROM generate_series(1, :accounts) AS n;
    INSERT INTO account_handle (account_key, handle) SELECT account_key, handle FROM dim_account;
    INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at, result, last_attempt_at, last_success_at)
    SELECT account_key, 'profile', platform, 'profiles', now() + interval '1 hour', 'ok', now(), now() FROM dim_account;
    INSERT INTO fact_followers_snapshot (account_key, snapshot_date, followers, captured_at, source, precision)
    SELECT account_key, current_date - ago, 1000 + account_key - ago, now() - ago * interval '1 day', 'live', 'exact'
    FROM dim_account, generate_series(0, :days - 1) AS ago;
    INSERT INTO account_latest (account_key, snapshot_date, captured_at, followers, delta_1d, delta_7d, source, precision)
    SELECT account_key, current_date, now(), 1000 + account_key, 1, 7, 'live', 'exact' FROM dim_account;
"""


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


@pytest.fixture
def many(engine: Engine) -> None:
    with transaction(engine) as conn:
        conn.execute(text(FILL), {"accounts": ACCOUNTS, "days": DAYS, "orgs": ORGS})
        derived.recount(conn)
    add_up(engine)
    with reading(engine) as conn:
        conn.execute(text("VACUUM ANALYZE"))


@pytest.mark.parametrize(
    ("path", "statements", "rows"),
    [
        # Groups, added-up days of each platform, organisation and all, the movers; never a row per account.
        ("/", 8, 3 * ORGS + 60 * (ORGS + 3 + 1) + 40),
        # The page's accounts, their days, and the names of organisations for the filter.
        ("/grid", 6, 50 + 50 * 15 + ORGS + 20),
        ("/grid?per_page=250&days=28&q=h2", 6, 250 + 250 * 29 + ORGS + 20),
        # One span per account, the added-up days per organisation.
        ("/compare?s1=x/h3&s2=youtube/h1&s3=org:org3&s4=org:org4", 16, 2 * 60 + 2 * 60 + 2 * ORGS + 80),
        ("/charts/compare?s1=x/h3&s2=youtube/h1&s3=org:org3&s4=org:org4", 14, 2 * 60 + 2 * 60 + 2 * ORGS + 60),
        ("/charts/suggest?q=org1", 2, ORGS + 9),
        # Groups, kept counts of each platform and day, ranges of days without a reading; never a row per account.
        ("/health", 17, 3 * 42 + ORGS + 60),
        ("/health?platform=x", 17, 3 * 42 + ORGS + 60),
        ("/performance", 12, 60),
        ("/method", 4, 20),
        # Its own days and posts, what it stands for, and the list in a few numbers.
        ("/accounts/x/h3", 14, 2 * 90 + 30),
    ],
)
def test_a_page_of_thousands_of_accounts_costs_few_statements_and_the_rows_that_it_shows(
    api: InProcess, many: None, path: str, statements: int, rows: int
) -> None:
    sent: list[tuple[str, int]] = []

    def note(_conn: Any, cursor: Any, sql: str, *_: Any) -> None:
        sent.append((sql, max(0, cursor.rowcount)))

    event.listen(api.engine, "after_cursor_execute", note)
    assert api.get(path).status_code == 200
    event.remove(api.engine, "after_cursor_execute", note)

    listing = "\n".join(f"{returned} rows: {' '.join(sql.split())[:150]}" for sql, returned in sent)
    assert 0 < len(sent) <= statements, listing
    assert sum(returned for _, returned in sent) <= rows, listing


def test_the_days_of_a_grid_are_found_by_an_index(api: InProcess, many: None, engine: Engine) -> None:
    sent: list[tuple[str, Any]] = []
    event.listen(
        api.engine,
        "before_cursor_execute",
        lambda _conn, _cursor, sql, parameters, *_: (
            sent.append((sql, parameters)) if "snapshot_date BETWEEN" in sql else None
        ),
    )
    api.get("/grid?days=28")
    ((sql, parameters),) = sent
    with reading(engine) as conn:
        cursor: Any = conn.connection.driver_connection.cursor()
        cursor.execute(f"EXPLAIN (ANALYZE) {sql}", parameters)
        plan = "\n".join(row[0] for row in cursor.fetchall())
    assert "Seq Scan" not in plan, plan


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/grid?metric=likes", "metric"),
        ("/grid?days=9", "days"),
        ("/grid?to=1999-01-01", "to"),
        ("/grid?platform=myspace", "platform"),
        ("/grid?cursor=abc", "cursor"),
        ("/compare?scale=log", "scale"),
        ("/compare?from=2026-02-01&to=2026-01-01", "from"),
        ("/compare?s9=x/agency", "s9"),
        ("/charts/compare?format=xml", "format"),
        ("/accounts/x/agency?cursor=abc", "cursor"),
        ("/charts/suggest", "q"),
        ("/?scale=log", "scale"),
        ("/health?platform=myspace", "platform"),
        ("/performance?span=week", "span"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(api: InProcess, path: str, field: str) -> None:
    answer = api.get(path)
    assert answer.status_code == 400
    assert field in {fault["field"] for fault in answer.json["errors"]}


@pytest.mark.parametrize(
    "name", ["x/nobody", "agency", "myspace/agency", "org:Nobody", "x/\N{ESCAPE}", "/", "org:", "x/a@b@c"]
)
def test_a_comparison_says_which_name_leads_nowhere_and_shows_the_others(
    api: InProcess, engine: Engine, name: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", display_name="The Agency")
        _keep(conn, key, days_ago(1), days_ago(0))
    page = api.get(f"/compare?s1={quote(name)}&s2=x/agency")
    assert page.status_code == 200
    assert 'role="alert"' in page.text
    assert "The Agency" in page.text


def test_a_csv_runs_nothing_and_leaves_open_what_isnt_known(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", display_name="=HYPERLINK(1)", org_name="@SUM(1)")
        _keep(conn, key, days_ago(3), days_ago(1), days_ago(0))
    answer = api.get("/grid?format=csv&days=7")
    head, row = csv.reader(answer.text.splitlines())
    assert answer.headers["content-disposition"] == 'attachment; filename="rollcall-grid.csv"'
    assert row[:4] == ["x", "agency", "'=HYPERLINK(1)", "'@SUM(1)"]
    assert head[4:6] == [f"followers {days_ago(0)}", f"change {days_ago(0)}"]
    assert row[4:] == ["5", "0", "5", "", "", "", "5", "", *([""] * 6)]
    lines = api.get("/charts/compare?format=csv&s1=x/agency").text.splitlines()
    assert lines[0] == "date,'=HYPERLINK(1)"
    assert lines[-3:] == [f"{days_ago(2)},", f"{days_ago(1)},5", f"{days_ago(0)},5"]


def test_a_line_is_in_percent_of_its_own_first_number(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for handle, before, today in (("half", 200, 100), ("none", 0, 50)):
            key = add_account(conn, f"x/{handle}")
            bulk.upsert_snapshots(conn, [snapshot(key, days_ago(1), before), snapshot(key, days_ago(0), today)])
    chart = api.get(f"/charts/compare?s1=x/half&s2=x/none&scale=indexed&from={days_ago(2)}").json
    assert [line["values"] for line in chart["series"]] == [[None, 100.0, 50.0], [None, None, None]]


def test_the_same_account_twice_is_one_line(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        _keep(conn, add_account(conn, "x/agency"), days_ago(0))
    assert len(api.get("/charts/compare?s1=x/agency&s2=X/Agency").json["series"]) == 1


def test_names_are_offered_organisations_first(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency", display_name="The Agency", org_name="Agency & Co")
        add_account(conn, "x/office", org_name="Office")
    assert api.get("/charts/suggest?q=agency").json == [
        {"name": "org:Agency & Co", "title": "organisation"},
        {"name": "x/agency", "title": "The Agency on X"},
    ]


def _keep(conn: Any, key: int, *days: Any) -> None:
    bulk.upsert_snapshots(conn, [snapshot(key, day) for day in days])


def test_a_page_kept_by_another_version_is_made_anew(api: InProcess, database_url: str, redis_url: str) -> None:
    api.wait_until_it_hears_purges()
    for path in ("/accounts", "/api/summary"):
        assert api.get(path).headers["x-cache"] == "miss"
    old = api.get("/accounts")
    settings = fakes.settings(database_url, redis_url, STATIC_URL="https://cdn.example")
    with in_process(settings) as later:
        later.wait_until_it_hears_purges()
        assert later.get("/api/summary").headers["x-cache"] == "l2"
        page = later.get("/accounts")
        assert page.headers["x-cache"] == "miss"
        assert 'href="https://cdn.example/static/' in page.text
        assert page.headers["etag"] != old.headers["etag"]


def test_an_open_cell_of_the_grid_says_why(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "youtube/agency")
        conn.execute(text("UPDATE dim_account SET added_at = now() - interval '5 days'"))
        stand(conn, key, result="ok", last_success_at=datetime.now(UTC))
        held = snapshot(key, days_ago(1), 9_000_000, precision="held")
        hidden = snapshot(key, days_ago(2), None, precision="hidden")
        bulk.upsert_snapshots(conn, [held, hidden, snapshot(key, days_ago(3), 5, posts=7)])
        failed = "INSERT INTO account_gap VALUES (:key, :day, :day, 'failed', 'timed out')"
        conn.execute(text(failed), {"key": key, "day": days_ago(4)})

    def whys(metric: str) -> list[str]:
        page = api.get(f"/grid?days=7&metric={metric}").text
        return re.findall(r'<td class="number[^"]*">(?:<abbr title="([^"]*)">)?', page)

    before = ["failed: timed out", gaps.NOT_RUNNING, gaps.NOT_TRACKED]
    assert whys("followers") == [gaps.NOT_READ, gaps.HELD, "hidden by the account", "", *before]
    assert whys("engagement")[3] == "the reading of this day has no such number"
    (why,) = set(whys("following"))
    assert why.startswith("not offered: ")


@pytest.mark.parametrize(
    ("name", "state", "why"),
    [
        ("linkedin/agency", {}, "None here: LinkedIn offers none: only an administrator of the page may read them."),
        ("x/agency", {}, "None here: not read yet."),
        (
            "x/agency",
            {"result": "blocked", "reason": "needs X_BEARER_TOKEN"},
            "None here: the last attempt to read them ended blocked: needs X_BEARER_TOKEN.",
        ),
        (
            "x/agency",
            {"result": "ok", "last_success_at": datetime.now(UTC)},
            "None: the last reading found no posts.",
        ),
    ],
)
def test_an_account_without_posts_says_why(
    api: InProcess, engine: Engine, name: str, state: dict[str, Any], why: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, name)
        conn.execute(text("DELETE FROM scrape_state WHERE subject = 'posts'"))
        if state:
            kept = {"account_key": key, "subject": "posts", "platform": "x", "kind": "posts", "next_due_at": NOON}
            conn.execute(insert(scrape_state).values(**kept, **state))
    assert why in api.get(f"/accounts/{name}").text


def test_an_account_tells_its_last_good_reading_and_its_last_attempt_with_the_reason(
    api: InProcess, engine: Engine
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        good, failed = NOON - timedelta(hours=9), NOON
        attempts = {"last_success_at": good, "last_attempt_at": failed, "failures": 3}
        stand(conn, key, result="failed", reason="timed out", **attempts)
    page = " ".join(re.sub("<[^>]*>", "", api.get("/accounts/x/agency").text).split())
    assert f"Last good reading {moment(good)} UTC. Last attempt {moment(failed)} UTC: timed out." in page
    assert "3 failures in a row." in page


def test_a_file_is_kept_for_good_under_the_address_of_its_content_alone(api: InProcess) -> None:
    url = assets("").url("app.css")
    answers = [api.get(url, Accept_Encoding=coding) for coding in ("zstd", "br", "gzip", "identity")]
    assert [answer.headers.get("content-encoding") for answer in answers] == ["zstd", "br", "gzip", None]
    assert all("immutable" in answer.headers["cache-control"] for answer in answers)
    assert api.get(url, Accept_Encoding="br", If_None_Match=answers[1].headers["etag"]).status_code == 304
    other = api.get(url.replace(assets("").version, "0" * 16))
    assert (other.status_code, other.headers["cache-control"]) == (200, "no-cache")
    assert api.get(f"{url}.map").status_code == 404
