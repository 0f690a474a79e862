"""What all lists do alike, and what each of them holds, against a real PostgreSQL and Redis."""

import csv
import gzip
import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import delete, insert, text

from db import derived, tags
from db.engine import Engine, transaction
from db.jobs import MOST_COUNTED
from db.models import account_handle, account_latest
from pipeline.lanes import LANES, queue_name
from tests import fakes
from tests.serving import (
    InProcess,
    add_account,
    add_job,
    add_post,
    days_ago,
    in_process,
    items,
    keep,
    purger,
    wait_for,
)

NOW = datetime.now(UTC)
PATHS = ("/api/summary", "/api/accounts", "/api/grid", "/api/posts/x/agency0", "/api/jobs")
ROWS_ONLY = ("/api/movers", "/api/totals")


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


@pytest.fixture
def seven(engine: Engine) -> None:
    """Keep seven accounts of two platforms, each with today's and yesterday's number; seven posts and seven jobs."""
    with transaction(engine) as conn:
        for number in range(7):
            platform = "x" if number % 2 == 0 else "bluesky"
            key = add_account(
                conn, f"{platform}/agency{number}", org_name='Parks, "all" of them' if number < 3 else "Rivers"
            )
            keep(conn, key, number // 2, days_ago(1))
            keep(conn, key, 2 * number, delta_1d=2 * number - number // 2, delta_7d=3 - number)
            add_job(conn, job_id(number), platform=platform, created_at=NOW - timedelta(minutes=number // 2))
            if number == 0:
                for post in range(7):
                    add_post(conn, key, f"p{post}", published_at=NOW - timedelta(days=post // 2), likes=post % 3)
        derived.recount(conn)


def job_id(number: int) -> str:
    return f"7b0f8f3e-6f7f-4a57-9d7c-{number:012}"


def reason(answer: Any, field: str) -> str:
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    return {error["field"]: error["reason"] for error in answer.json["errors"]}[field]


def rows_of(answer: Any) -> list[Any]:
    """Return the items of an answer in any format, as texts where it is CSV."""
    assert answer.status_code == 200, answer.text
    kind = answer.headers["content-type"]
    if kind == "text/csv; charset=utf-8":
        return list(csv.DictReader(io.StringIO(answer.text, newline="")))
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in answer.text.splitlines()]
    assert kind == "application/json"
    found = answer.json
    return list(found["items"] if "items" in found else found["gains"] + found["losses"])


def as_text(value: Any) -> str:
    if value is None:
        return ""
    return json.dumps(value) if isinstance(value, bool) else str(value)


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("path", [*PATHS, *ROWS_ONLY])
def test_every_list_says_the_same_in_json_ndjson_and_csv_by_name_or_by_accept(api: InProcess, path: str) -> None:
    as_json = rows_of(api.get(path))
    assert len(as_json) > 1
    for kind, media_type in (("json", "application/json"), ("ndjson", "application/x-ndjson"), ("csv", "text/csv")):
        by_name = api.get(f"{path}?format={kind}", Accept="application/json, text/csv;q=0.1")
        by_accept = api.get(path, Accept=f"text/html;q=0.9, {media_type};q=0.8, */*;q=0.1")
        expected = as_json
        if kind == "csv":
            expected = [{name: as_text(value) for name, value in row.items()} for row in as_json]
        assert rows_of(by_name) == rows_of(by_accept) == expected
        for answer in (by_name, by_accept):
            assert answer.headers["content-type"].startswith(media_type)
            assert "Accept," in answer.headers["vary"]


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("path", [*PATHS, *ROWS_ONLY])
def test_formats_are_different_answers_in_the_cache_and_to_validators(api: InProcess, path: str) -> None:
    api.wait_until_it_hears_purges()
    for _ in range(2):
        kinds = [api.get(path, Accept=accept) for accept in ("text/csv", "application/x-ndjson", "application/json")]
        assert len({answer.headers["content-type"] for answer in kinds}) == 3
        assert len({answer.text for answer in kinds}) == 3
        assert path == "/api/jobs" or len({answer.headers["etag"] for answer in kinds}) == 3
    if path != "/api/jobs":
        assert {answer.headers["x-cache"] for answer in kinds} == {"l1"}


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize(
    "accept", ["image/png", "*/*", "text/html,*/*;q=0.8", "application/json;q=0", "rubbish;;,=", "é"]
)
def test_who_accepts_anything_or_nothing_of_ours_gets_json(api: InProcess, accept: str) -> None:
    assert api.get("/api/summary", Accept=accept).headers["content-type"] == "application/json"


def test_an_unknown_format_is_refused_with_those_that_there_are(api: InProcess) -> None:
    for path in ("/api/summary", "/api/totals", "/api/movers", "/api/jobs"):
        assert reason(api.get(f"{path}?format=xlsx"), "format") == "'xlsx' is not one of json, ndjson, csv"
    assert "not a parameter here" in reason(api.get("/api/accounts/x/agency?format=csv"), "format")


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", ["json", "ndjson", "csv"])
def test_pages_and_cursors_lead_through_the_whole_list_in_every_format(api: InProcess, path: str, kind: str) -> None:
    whole = rows_of(api.get(f"{path}?per_page=500&format={kind}"))
    for sign in ("", "-"):
        column = {"/api/grid": "snapshot_date", "/api/jobs": "created_at"}.get(path, "handle")
        sort = sign + ("likes" if "posts" in path else column)
        ordered = rows_of(api.get(f"{path}?sort={sort}&per_page=500&format={kind}"))
        assert sorted(map(repr, ordered)) == sorted(map(repr, whole))
        by_page, url = [], f"{path}?sort={sort}&per_page=3&format={kind}"
        while url:
            answer = api.get(url)
            by_page += rows_of(answer)
            assert answer.headers["x-total-count"] == str(len(whole))
            link = answer.headers.get("link", "")
            url = re.sub('<(.*)>; rel="next"', r"\1", link)
            assert kind != "json" or answer.json["next"] == (url or None)
        by_cursor = rows_of(api.get(f"{path}?sort={sort}&per_page=1&format={kind}"))
        cursor = api.get(f"{path}?sort={sort}&per_page=1&format={kind}").headers["x-next-cursor"]
        while cursor:
            answer = api.get(f"{path}?sort={sort}&per_page=2&format={kind}&cursor={cursor}")
            by_cursor += rows_of(answer)
            cursor = answer.headers.get("x-next-cursor")
            assert (cursor is None) == ("link" not in answer.headers)
            assert kind != "json" or (answer.json["page"], answer.json["next_cursor"]) == (None, cursor)
        assert by_page == by_cursor == ordered, sort


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("path", PATHS)
def test_every_list_has_its_caps_and_names_what_is_wrong(api: InProcess, path: str) -> None:
    most = 1000 if path in ("/api/summary", "/api/grid") else 500
    assert api.get(f"{path}?per_page={most}").status_code == 200
    assert reason(api.get(f"{path}?per_page={most + 1}"), "per_page").endswith(f"a whole number from 1 to {most}")
    last = -(-int(api.get(path).headers["x-total-count"]) // 3)
    assert len(rows_of(api.get(f"{path}?per_page=3&page={last}"))) > 0
    assert (
        reason(api.get(f"{path}?per_page=3&page={last + 1}"), "page") == f"{last + 1} is beyond the last page, {last}"
    )
    assert reason(api.get(f"{path}?page=1&cursor=a"), "cursor").startswith("goes without page")
    assert "handed out" in reason(api.get(f"{path}?cursor=a"), "cursor")
    assert "(or -name for the other way round)" in reason(api.get(f"{path}?sort=bio"), "sort")
    assert "'secret' is not one of" in reason(api.get(f"{path}?fields=secret"), "fields")
    assert "known are" in reason(api.get(f"{path}?colour=red"), "colour")
    assert set(api.get(path).json) == {"items", "page", "per_page", "total", "next", "next_cursor", "as_of"}


@pytest.mark.usefixtures("seven")
@pytest.mark.parametrize("path", [*PATHS, *ROWS_ONLY])
@pytest.mark.parametrize("kind", ["json", "ndjson", "csv"])
def test_fields_are_the_columns_and_their_order_in_every_format(api: InProcess, path: str, kind: str) -> None:
    every = rows_of(api.get(f"{path}?format={kind}"))
    names = list(every[0])[::-2]
    chosen = rows_of(api.get(f"{path}?format={kind}&fields={','.join(names)}"))
    assert [list(row) for row in chosen] == [names] * len(every)
    assert chosen == [{name: row[name] for name in names} for row in every]


def test_an_empty_list_is_empty_in_every_format(api: InProcess) -> None:
    for path in ("/api/summary", "/api/accounts", "/api/grid", "/api/jobs"):
        assert api.get(path).json["items"] == []
        assert api.get(f"{path}?format=ndjson").text == ""
        named = api.get(f"{path}?format=csv&fields=platform").text
        assert named == "platform\r\n"
        assert api.get(path).headers["x-total-count"] == "0"


def test_what_a_spreadsheet_would_run_is_text_in_csv_and_as_it_was_elsewhere(api: InProcess, engine: Engine) -> None:
    evil = '=HYPERLINK("https://evil.example"),\n+1'
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", display_name=evil, org_name="@SUM(A1)")
        keep(conn, key, 5, delta_1d=-5)
        add_post(conn, key, "p1", text=evil)
    (row,) = rows_of(api.get("/api/summary?format=csv"))
    assert (row["display_name"], row["org_name"], row["delta_1d"]) == (f"'{evil}", "'@SUM(A1)", "-5")
    assert rows_of(api.get("/api/posts/x/agency?format=csv"))[0]["text"] == f"'{evil}"
    for kind in ("json", "ndjson"):
        assert rows_of(api.get(f"/api/summary?format={kind}"))[0]["display_name"] == evil


def test_a_list_that_grows_behind_its_first_page_is_no_longer_the_same_answer(
    api: InProcess, engine: Engine, database_url: str, redis_url: str
) -> None:
    """The rows of the page are the same bytes, but its headers tell of more."""
    with transaction(engine) as conn:
        add_account(conn, "x/first")
    path = "/api/accounts?format=csv&per_page=1&fields=handle"
    before = api.get(path)
    assert "link" not in before.headers
    with transaction(engine) as conn:
        add_account(conn, "x/second")
    purger(fakes.settings(database_url, redis_url)).purge({tags.ACCOUNTS})

    def grown() -> bool:
        after = api.get(path, If_None_Match=before.headers["etag"])
        return bool(after.status_code == 200 and after.headers["x-total-count"] == "2" and after.headers["link"])

    wait_for(grown, "the answer that tells of both")


@pytest.mark.usefixtures("seven")
def test_the_grid_has_an_item_per_account_and_day_newest_first(api: InProcess, engine: Engine) -> None:
    answer = api.get("/api/grid").json
    assert answer["total"] == len(answer["items"]) == 14
    assert answer["items"][6] == {
        "account_key": 7,
        "platform": "x",
        "handle": "agency6",
        "org_name": "Rivers",
        "snapshot_date": f"{days_ago(0)}",
        "followers": 12,
        "following": None,
        "posts": None,
        "engagement": None,
        "delta_1d": 9,
    }
    days = [item["snapshot_date"] for item in answer["items"]]
    assert days == [f"{days_ago(0)}"] * 7 + [f"{days_ago(1)}"] * 7
    assert answer["items"][7]["delta_1d"] is None, "there is no day before"
    of = {
        f"from={days_ago(0)}": 7,
        f"to={days_ago(1)}": 7,
        f"to={days_ago(2)}": 0,
        "platform=x": 8,
        "org=Rivers": 8,
        "org=Rivers&platform=x": 4,
        "core=true": 0,
        "status=fresh": 14,
        "status=gone": 0,
        "q=AGENCY6": 2,
    }
    for query, total in of.items():
        found = api.get(f"/api/grid?{query}").json
        assert (found["total"], len(found["items"])) == (total, total), query


@pytest.mark.usefixtures("seven")
def test_a_finished_job_purges_the_grid(api: InProcess) -> None:
    purged = tags.of_job("x", [1])
    for path in (*PATHS[:-1], *ROWS_ONLY):
        assert purged & set(api.get(path).headers["surrogate-key"].split()), path


def test_movers_are_who_gained_and_lost_most_and_nobody_else(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for name, followers, gained in (
            ("big", 1000, 50),
            ("small", 20, 10),
            ("new", 30, 30),
            ("level", 7, 0),
            ("loser", 500, -50),
            ("small_loser", 10, -10),
            ("unknown", 5, None),
        ):
            keep(conn, add_account(conn, f"x/{name}", org_name=name[0]), followers, delta_7d=gained)
        add_account(conn, "x/unread")

    def moved(query: str) -> dict[str, list[Any]]:
        answer = api.get(f"/api/movers{query}").json
        return {of: [item["handle"] for item in answer[of]] for of in ("gains", "losses")}

    by_number = {"gains": ["big", "new", "small"], "losses": ["loser", "small_loser"]}
    assert moved("") == moved("?days=7&by=number") == by_number
    # Of nobody to 30 is no percentage.
    assert moved("?by=percent") == {"gains": ["small", "big"], "losses": ["small_loser", "loser"]}
    assert moved("?per_page=1") == {"gains": ["big"], "losses": ["loser"]}
    assert moved("?days=30") == {"gains": [], "losses": []}
    assert moved("?org=b") == {"gains": ["big"], "losses": []}
    assert moved("?core=true") == moved("?platform=bluesky") == {"gains": [], "losses": []}
    answer = api.get("/api/movers?by=percent&per_page=1").json
    assert (answer["days"], answer["by"], answer["as_of"]) == (7, "percent", f"{days_ago(0)}T06:00:00Z")
    assert answer["gains"] == [
        {
            "account_key": 2,
            "platform": "x",
            "handle": "small",
            "display_name": None,
            "org_name": "s",
            "is_core_account": False,
            "account_url": "https://x.example/small",
            "followers": 20,
            "change": 10,
            "change_pct": 100.0,
            "snapshot_date": f"{days_ago(0)}",
            "captured_at": f"{days_ago(0)}T06:00:00Z",
            "precision": "exact",
            "source": "live",
        }
    ]
    assert [item["change_pct"] for item in api.get("/api/movers").json["gains"]] == [5.26, None, 100.0]


def test_who_was_not_read_within_the_interval_moved_at_another_time(api: InProcess, engine: Engine) -> None:
    deltas = {f"delta_{days}d": 5 for days in (1, 7, 30)}
    with transaction(engine) as conn:
        for ago in (0, 1, 2, 7, 8, 29, 31):
            keep(conn, add_account(conn, f"x/read{ago}"), 100, days_ago(ago), **deltas)
    for days, shown in ((1, [0, 1]), (7, [0, 1, 2, 7]), (30, [0, 1, 2, 7])):
        gains = api.get(f"/api/movers?days={days}").json["gains"]
        assert [item["handle"] for item in gains] == [f"read{ago}" for ago in shown], days
        assert [item["snapshot_date"] for item in gains] == [f"{days_ago(ago)}" for ago in shown]


@pytest.mark.usefixtures("seven")
def test_posts_come_newest_first_with_what_is_known_of_them(api: InProcess, engine: Engine) -> None:
    answer = api.get("/api/posts/x/agency0").json
    assert [post["post_id"] for post in answer["items"]] == ["p0", "p1", "p2", "p3", "p4", "p5", "p6"]
    post = answer["items"][1]
    assert post == {
        "post_id": "p1",
        "url": "https://x.example/p1",
        "published_at": NOW.isoformat().replace("+00:00", "Z"),
        "post_type": "post",
        "text": "Words",
        "likes": 1,
        "comments": None,
        "shares": None,
        "views": None,
        "read_at": post["read_at"],
        "source": "live",
    }
    assert answer["as_of"] == max(item["read_at"] for item in answer["items"])
    by_likes = [post["likes"] for post in api.get("/api/posts/x/agency0?sort=-likes").json["items"]]
    assert by_likes == [2, 2, 1, 1, 0, 0, 0]
    with transaction(engine) as conn:
        conn.execute(insert(account_handle).values(account_key=1, handle="Before"))
        add_account(conn, "reddit/r/rivers")
    assert api.get("/api/posts/X/@BEFORE?fields=post_id").json["total"] == 7
    assert api.get("/api/posts/reddit/r/rivers").json["items"] == []
    assert api.get("/api/posts/x/nobody").status_code == 404
    assert reason(api.get("/api/posts/orkut/agency"), "platform")


@pytest.mark.usefixtures("seven")
def test_an_address_with_odd_characters_is_followed_by_its_next(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, 'reddit/r/a "b>')
        for post in range(2):
            add_post(conn, key, f"ö{post}", published_at=NOW)
    url = "/api/posts/reddit/r/a%20%22b%3E?per_page=1"
    first = api.get(url)
    assert first.json["next"].isascii()
    assert first.headers["link"] == f'<{first.json["next"]}>; rel="next"'
    assert [post["post_id"] for post in api.get(first.json["next"]).json["items"]] == ["ö1"]


@pytest.mark.usefixtures("seven")
def test_jobs_are_listed_newest_first_and_as_they_stand_now(api: InProcess, engine: Engine) -> None:
    answer = api.get("/api/jobs")
    assert answer.headers["cache-control"] == "no-store"
    assert [job["job_id"] for job in answer.json["items"]] == [job_id(number) for number in range(7)]
    compressed = api.get("/api/jobs?fields=job_id", Accept_Encoding="gzip")
    assert compressed.headers["content-encoding"] == "gzip"
    assert json.loads(gzip.decompress(compressed.content))["total"] == 7
    head = api.ask("HEAD", "/api/jobs?fields=job_id", Accept_Encoding="gzip")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == "application/json"
    with transaction(engine) as conn:
        add_job(
            conn,
            job_id(9),
            kind="posts",
            lane="user_requested",
            state="failed",
            accounts=[1, 2, 3],
            reason="cancelled",
            requested_by="api:newsroom",
            created_at=NOW + timedelta(seconds=1),
        )
    found = api.get("/api/jobs?per_page=1")
    assert found.json["items"] == [
        {
            "job_id": job_id(9),
            "platform": "x",
            "kind": "posts",
            "queue": "x.user_requested",
            "state": "failed",
            "accounts": 3,
            "reason": "cancelled",
            "created_at": (NOW + timedelta(seconds=1)).isoformat().replace("+00:00", "Z"),
            "started_at": None,
            "finished_at": None,
        }
    ]
    assert "newsroom" not in found.text, "who asked is nobody else's business"
    for query, total in {
        "platform=bluesky": 3,
        "kind=posts": 1,
        "lane=user_requested": 1,
        "state=failed": 1,
        "state=succeeded&platform=x": 4,
        "lane=retry": 0,
    }.items():
        assert api.get(f"/api/jobs?{query}").json["total"] == total, query


def test_a_job_s_queue_is_called_as_the_broker_s(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for number, lane in enumerate(LANES):
            add_job(conn, job_id(number), lane=lane)
    named = {item["queue"] for item in api.get("/api/jobs?fields=queue").json["items"]}
    assert named == {queue_name("x", lane) for lane in LANES}


def test_so_many_jobs_that_counting_takes_long_have_no_total_and_are_read_on_by_cursor(
    api: InProcess, engine: Engine
) -> None:
    with transaction(engine) as conn:
        conn.execute(
            text("""
                INSERT INTO scrape_job (job_id, platform, kind, lane, state, accounts, lease_until, created_at)
                SELECT lpad(n::text, 32, '0')::uuid, 'x', 'profiles', 'core', 'succeeded', '{}', now(),
                    now() - n * interval '1 second'
                FROM generate_series(1, :many) AS n
            """),
            {"many": MOST_COUNTED + 1},
        )
    first = api.get("/api/jobs?per_page=500")
    assert first.json["total"] is None
    assert "x-total-count" not in first.headers
    last = MOST_COUNTED // 500
    deepest = api.get(f"/api/jobs?per_page=500&page={last}").json
    refused = reason(api.get(f"/api/jobs?per_page=500&page={last + 1}"), "page")
    assert refused == f"{last + 1} is beyond the last page, {last}; a cursor leads further"
    further = api.get(f"/api/jobs?per_page=500&cursor={deepest['next_cursor']}").json
    assert (len(further["items"]), further["next"]) == (1, None)
    with transaction(engine) as conn:
        conn.execute(text("DELETE FROM scrape_job WHERE job_id = lpad('1', 32, '0')::uuid"))
    assert api.get("/api/jobs").json["total"] == MOST_COUNTED


def test_filters_hold_on_every_list_of_accounts(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/harbour", org_name="Harbour", is_core_account=True), 10, delta_7d=1)
        keep(conn, add_account(conn, "bluesky/park", org_name="Parks", display_name="The Parks"), 10, delta_7d=1)
        conn.execute(text("UPDATE scrape_state SET result = 'gone' WHERE platform = 'bluesky'"))
        derived.recount(conn)
    for query, shown in {
        "platform=x": ["x/harbour"],
        "org=Parks": ["bluesky/park"],
        "core=true": ["x/harbour"],
        "core=false": ["bluesky/park"],
        "status=gone": ["bluesky/park"],
        "q=PARK": ["bluesky/park"],
        "q=harb": ["x/harbour"],
        "q=par&core=true": [],
    }.items():
        for path in ("summary", "accounts", "grid"):
            assert items(api.get(f"/api/{path}?{query}").json) == shown, (path, query)
        gains = api.get(f"/api/movers?{query}").json["gains"]
        assert items({"items": gains}) == shown, query


def test_an_account_without_numbers_has_nulls_in_every_list_that_shows_it(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), None)
        conn.execute(delete(account_latest))
        derived.recount(conn)
    (row,) = rows_of(api.get("/api/summary?format=csv&fields=followers,handle"))
    assert row == {"followers": "", "handle": "agency"}
    assert rows_of(api.get("/api/grid?fields=followers"))[0]["followers"] is None
    assert rows_of(api.get("/api/movers")) == []
