"""What each endpoint answers, against a real PostgreSQL and Redis."""

import gzip
import json
import random
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import brotli
import pytest
import zstandard
from sqlalchemy import insert

from db import gaps, keys, tags
from db.engine import Engine, transaction
from db.models import account_handle, dataset, scrape_job
from db.rows import Next
from tests import fakes
from tests.serving import InProcess, add_account, add_post, days_ago, in_process, items, keep, purger, stand, wait_for

JOB = "7b0f8f3e-6f7f-4a57-9d7c-0d6f2f1c2a10"
DECODE = {"identity": bytes, "gzip": gzip.decompress, "br": brotli.decompress, "zstd": zstandard.decompress}


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


def errors(answer: Any) -> dict[str, str]:
    """Return the faults that a problem names."""
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json
    assert set(problem) >= {"type", "title", "status", "detail"}
    assert problem["status"] == answer.status_code
    return {error["field"]: error["reason"] for error in problem.get("errors", [])}


def test_a_summary_lists_every_account_with_all_its_fields(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency", display_name="The Agency"), 120, following=3, delta_7d=20)
        add_account(conn, "mastodon/agency@social.example")
    answer = api.get("/api/summary").json
    assert items(answer) == ["x/agency", "mastodon/agency@social.example"]
    assert answer["items"][0] == {
        "account_key": 1,
        "platform": "x",
        "handle": "agency",
        "display_name": "The Agency",
        "org_name": None,
        "is_core_account": False,
        "account_url": "https://x.example/agency",
        "followers": 120,
        "following": 3,
        "posts": None,
        "engagement": None,
        "delta_1d": None,
        "delta_7d": 20,
        "delta_30d": None,
        "growth_7d_pct": 20.0,
        "snapshot_date": days_ago(0).isoformat(),
        "captured_at": f"{days_ago(0)}T06:00:00Z",
        "status": "fresh",
        "reason": None,
        "precision": "exact",
        "source": "live",
    }
    assert (answer["page"], answer["per_page"], answer["total"], answer["next"]) == (1, 50, 2, None)
    assert answer["as_of"] == f"{days_ago(0)}T06:00:00Z"
    assert (answer["items"][1]["followers"], answer["items"][1]["status"]) == (None, "never")


def test_pages_and_cursors_lead_through_the_whole_list(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(7):
            keep(conn, add_account(conn, f"x/agency{number}"), number // 2)
    for path in ("/api/summary", "/api/accounts"):
        sort = "-followers" if path == "/api/summary" else "-handle"
        whole = items(api.get(f"{path}?sort={sort}").json)
        by_page, url = [], f"{path}?sort={sort}&per_page=3&platform=x"
        while url:
            answer = api.get(url).json
            by_page += items(answer)
            url = answer["next"]
        by_cursor, cursor = [], api.get(f"{path}?sort={sort}&per_page=1").json["next_cursor"]
        while cursor:
            answer = api.get(f"{path}?sort={sort}&per_page=2&cursor={cursor}").json
            assert (answer["page"], answer["total"]) == (None, 7)
            by_cursor += items(answer)
            cursor = answer["next_cursor"]
            assert (answer["next"] is None) == (cursor is None)
        assert by_page == whole
        assert by_cursor == whole[1:]


def test_a_page_beyond_the_last_is_refused_and_an_empty_list_has_its_first(api: InProcess) -> None:
    assert api.get("/api/summary").json["items"] == []
    answer = api.get("/api/summary?page=2")
    assert answer.status_code == 400
    assert errors(answer) == {"page": "2 is beyond the last page, 1"}


def test_only_the_fields_asked_for_come_in_their_order(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5)
    assert list(api.get("/api/summary?fields=followers,handle").json["items"][0].items()) == [
        ("followers", 5),
        ("handle", "agency"),
    ]
    assert list(api.get("/api/history/x/agency?fields=followers,dates").json) == ["followers", "dates"]
    assert list(api.get("/api/accounts/x/agency?fields=handle_history").json) == ["handle_history"]


def test_a_history_has_every_day_and_says_why_one_is_missing(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", added_at=datetime.now(UTC) - timedelta(days=4))
        for ago in (4, 3, 1):
            keep(conn, key, 100 - ago, days_ago(ago))
        told = [Next(account_key=key, result="failed", reason="timed out", failures=1, due_at=datetime.now(UTC))]
        gaps.record(conn, told, days_ago(2))
    answer = api.get(f"/api/history/x/agency?from={days_ago(5)}").json
    assert answer["dates"] == [days_ago(ago).isoformat() for ago in (5, 4, 3, 2, 1, 0)]
    assert answer["followers"] == [None, 96, 97, None, 99, None]
    assert [len(answer[column]) for column in ("following", "posts", "engagement")] == [6, 6, 6]
    assert answer["gaps"] == [
        {"from": f"{days_ago(5)}", "to": f"{days_ago(5)}", "reason": "not yet tracked"},
        {"from": f"{days_ago(2)}", "to": f"{days_ago(2)}", "reason": "failed: timed out"},
        {"from": f"{days_ago(0)}", "to": f"{days_ago(0)}", "reason": "not read yet"},
    ]
    assert (answer["account"]["handle"], answer["account"]["status"]) == ("agency", "fresh")
    assert len(api.get("/api/history/x/agency").json["dates"]) == 365


def test_an_account_answers_to_any_case_and_to_its_old_handle(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/AgencyToday")
        conn.execute(insert(account_handle).values(account_key=key, handle="AgencyBefore"))
        add_account(conn, "mastodon/agency@social.example")
        other = add_account(conn, "mastodon/agency@town.example")
    for path in ("x/agencytoday", "x/AGENCYBEFORE", "X/AgencyToday", "x/@AgencyToday"):
        for endpoint in ("history", "accounts"):
            answer = api.get(f"/api/{endpoint}/{path}").json
            account = answer["account"] if endpoint == "history" else answer
            assert (account["account_key"], account["handle"]) == (key, "AgencyToday")
    named = {past["handle"] for past in api.get("/api/accounts/x/agencybefore").json["handle_history"]}
    assert named == {"AgencyToday", "AgencyBefore"}
    assert api.get("/api/accounts/mastodon/agency@town.example").json["account_key"] == other
    assert api.get("/api/accounts/mastodon/agency").status_code == 404


def test_a_handle_with_a_slash_has_its_own_address(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = {handle: add_account(conn, f"reddit/{handle}") for handle in ("rivers", "r/rivers")}
    for handle, key in keys.items():
        assert api.get(f"/api/accounts/reddit/{handle}").json["account_key"] == key
        assert api.get(f"/api/history/reddit/{handle}").json["account"]["account_key"] == key
    assert api.get("/api/accounts/reddit/r%2Frivers").json["account_key"] == keys["r/rivers"]
    assert api.get("/api/accounts/reddit/r/lakes").status_code == 404


def test_a_job_tells_what_became_of_each_account(api: InProcess, engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        good, bad = add_account(conn, "x/good"), add_account(conn, "x/bad")
        outcomes = [
            {"account_key": good, "result": "ok", "reason": None},
            {"account_key": bad, "result": "gone", "reason": "suspended"},
        ]
        conn.execute(
            insert(scrape_job).values(
                job_id=JOB,
                platform="x",
                kind="profiles",
                lane="user_requested",
                state="partly_failed",
                accounts=[bad, good],
                requested_by="api:newsroom",
                lease_until=now,
                created_at=now,
                outcomes=outcomes,
            )
        )
    answer = api.get(f"/api/jobs/{JOB}")
    assert answer.headers["cache-control"] == "no-store"
    assert (answer.json["queue"], answer.json["state"]) == ("x.user_requested", "partly_failed")
    assert answer.json["accounts"] == [
        {"account_key": bad, "account": "x/bad", "result": "gone", "reason": "suspended"},
        {"account_key": good, "account": "x/good", "result": "ok", "reason": None},
    ]
    assert "newsroom" not in answer.text, "who asked is nobody else's business"
    assert api.get(f"/api/jobs/{JOB[:-1]}1").status_code == 404
    assert api.get("/api/jobs/42").status_code == 404


def test_the_page_shows_the_api_s_numbers_and_says_when_they_are_simulated(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", display_name="<b>Agency</b>", url="javascript:alert(1)")
        keep(conn, key, 1234567, delta_7d=-1500)
        stand(conn, add_account(conn, "facebook/waiting"), result="blocked", reason="no reader yet")
    page = api.get("/accounts")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    for shown in ("1,234,567", "−1,500", "no reader yet", "@waiting", "&lt;b&gt;Agency"):
        assert shown in page.text
    assert "<b>Agency" not in page.text
    assert 'href="javascript' not in page.text
    assert "Simulated numbers" not in page.text
    with transaction(engine) as conn:
        conn.execute(insert(dataset).values(source="simulated"))
    assert "Simulated numbers" in api.get("/accounts?page=1").text


def test_every_number_on_the_page_carries_its_column_s_name_for_where_rows_are_cards(
    api: InProcess, engine: Engine
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), 5, delta_1d=1)
    page = api.get("/accounts").text
    heads, body = page.split("<tbody", 1)
    columns = re.findall(r'<th role="columnheader".*?><a [^>]*>([^<]+)</a></th>', heads)
    cells = re.findall(r"<t[hd] ([^>]*)>", body)
    assert len(cells) == len(columns)
    for column, cell in zip(columns, cells, strict=True):
        assert "role=" in cell, "displayed as a card, a cell is none to a screen reader without its role"
        if "number" in cell:
            assert f'data-label="{column}"' in cell


def test_the_page_sorts_and_turns_over(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(201):
            add_account(conn, f"x/agency{number:03}")
    first = api.get("/accounts?sort=-handle").text
    assert "agency200" in first
    assert "agency000" not in first
    assert "agency000" in api.get("/accounts?sort=-handle&page=3").text
    assert errors(api.get("/accounts?page=4"))["page"]


@pytest.mark.parametrize(
    ("path", "vary"),
    [
        ("/", "Accept-Encoding"),
        ("/accounts", "Accept-Encoding"),
        ("/api/accounts/x/agency", "Accept-Encoding"),
        ("/api/history/x/agency", "Accept-Encoding"),
        ("/api/posts/x/agency", "Accept, Accept-Encoding"),
        *((f"/api/{of}", "Accept, Accept-Encoding") for of in ("summary", "accounts", "grid", "movers", "totals")),
        *((f"/api/{of}?format=csv", "Accept, Accept-Encoding") for of in ("summary", "grid", "movers", "totals")),
    ],
)
def test_cacheable_answers_carry_their_validators_in_every_coding(
    api: InProcess, engine: Engine, path: str, vary: str
) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        keep(conn, key, 5)
        add_post(conn, key, "p1")
    etags, bodies = set(), set()
    for coding, decode in DECODE.items():
        answer = api.get(path, Accept_Encoding=coding)
        assert answer.headers.get("content-encoding", "identity") == coding
        etag = answer.headers["etag"]
        assert etag.startswith('"'), "strong"
        etags.add(etag)
        bodies.add(decode(answer.content))
        assert answer.headers["vary"] == vary
        assert answer.headers["surrogate-key"]
        assert answer.headers["last-modified"]
        again = api.get(path, Accept_Encoding=coding, If_None_Match=f'"other", W/{etag}')
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert api.get(path, Accept_Encoding=coding, If_None_Match='"other"').status_code == 200
        head = api.ask("HEAD", path, Accept_Encoding=coding)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", etag)
        assert head.headers["content-length"] == answer.headers["content-length"]
    assert (len(etags), len(bodies)) == (4, 1)


def test_different_urls_never_share_an_answer(api: InProcess, engine: Engine) -> None:
    """Ask for many URLs in any order, from each level of the cache: each shows its own accounts and nothing else."""
    with transaction(engine) as conn:
        for number in range(30):
            keep(conn, add_account(conn, f"{'x' if number % 2 else 'bluesky'}/agency{number}"), number)
    api.wait_until_it_hears_purges()
    urls: dict[str, list[str]] = {}
    for number in range(30):
        name = f"{'x' if number % 2 else 'bluesky'}/agency{number}"
        urls |= {f"/api/{of}/{name}": [name] for of in ("history", "accounts")}
        urls |= {f"/api/history/{name}?interval=week": [name], f"/api/history/{name}?to={days_ago(1)}": [name]}
    for platform in ("x", "bluesky"):
        own = [f"{platform}/agency{n}" for n in range(30) if (n % 2 == 1) == (platform == "x")]
        for size in (2, 5):
            for page in (1, 2, 3):
                shown = own[size * (page - 1) : size * page]
                for of in ("summary", "accounts"):
                    urls[f"/api/{of}?platform={platform}&per_page={size}&page={page}"] = shown
                    urls[f"/api/{of}?page={page}&q=agency&per_page={size}&platform={platform}"] = shown
    asked = [(url, coding) for url in urls for coding in ("identity", "gzip")] * 3
    random.Random(7).shuffle(asked)
    levels = set()
    for url, coding in asked:
        answer = api.get(url, Accept_Encoding=coding)
        levels.add(answer.headers["x-cache"])
        found = json_of(answer, coding)
        if "items" in found:
            assert items(found) == urls[url], url
        else:
            account = found.get("account", found)
            assert [f"{account['platform']}/{account['handle']}"] == urls[url], url
            if "dates" in found:
                assert found["dates"][-1] == last_of(url).isoformat(), url
    assert levels == {"miss", "l1"}


def last_of(url: str) -> date:
    """Return the day that a history ends with; of weeks it is their Monday."""
    if "interval=week" in url:
        return days_ago(days_ago(0).weekday())
    return days_ago(1 if "to=" in url else 0)


def json_of(answer: Any, coding: str) -> Any:
    return json.loads(DECODE[coding](answer.content))


def test_the_order_of_parameters_makes_no_second_answer(api: InProcess) -> None:
    api.wait_until_it_hears_purges()
    assert api.get("/api/summary?per_page=5&core=true").headers["x-cache"] == "miss"
    assert api.get("/api/summary?core=true&per_page=5").headers["x-cache"] == "l1"
    assert api.get("/api/summary?core=true&per_page=6").headers["x-cache"] == "miss"


def test_without_its_database_the_api_says_so_and_lives(database_url: str, redis_url: str) -> None:
    with in_process(fakes.settings(f"{database_url.replace('/test_', '/no_such_')}", redis_url)) as api:
        answer = api.get("/api/summary")
        assert (answer.status_code, errors(answer)) == (503, {})
        assert answer.headers["retry-after"]
        assert "no_such_" not in answer.text, "nothing of the inside goes out"
        ready = api.get("/readyz")
        assert (ready.status_code, ready.json["database"], ready.json["cache"]) == (503, "down", "ok")
        assert api.get("/healthz").status_code == 200


def test_a_request_id_comes_back_and_a_strange_one_is_replaced(api: InProcess) -> None:
    assert api.get("/healthz", X_Request_ID="trace-1:a/b").headers["x-request-id"] == "trace-1:a/b"
    for strange in ("a b", "x" * 129, "é", ""):
        assert api.get("/healthz", X_Request_ID=strange).headers["x-request-id"] != strange
    assert api.get("/api/nothing").headers["x-request-id"]


def test_only_allowed_origins_may_read_and_only_with_get(database_url: str, redis_url: str) -> None:
    settings = fakes.settings(database_url, redis_url, CORS_ORIGINS="https://board.example, https://b.example")
    with in_process(settings) as api:
        allowed = api.get("/api/summary", Origin="https://board.example")
        assert allowed.headers["access-control-allow-origin"] == "https://board.example"
        assert "Origin" in allowed.headers["vary"]
        stranger = api.get("/api/summary", Origin="https://evil.example")
        assert "access-control-allow-origin" not in stranger.headers
        assert "Origin" in stranger.headers["vary"], "or a shared cache would give one the other's headers"
        preflight = api.ask(
            "OPTIONS", "/api/refresh", Origin="https://board.example", Access_Control_Request_Method="POST"
        )
        assert preflight.headers["access-control-allow-methods"] == "GET, HEAD"


def test_options_tells_the_methods_and_others_are_refused(api: InProcess) -> None:
    assert api.ask("OPTIONS", "/api/summary").headers["allow"] == "GET, HEAD"
    refused = api.ask("DELETE", "/api/summary")
    assert (refused.status_code, errors(refused)) == (405, {})
    assert "GET" in refused.headers["allow"]


def test_a_closed_api_shows_nothing_without_a_key_not_even_what_is_cached(
    database_url: str, redis_url: str, engine: Engine
) -> None:
    with transaction(engine) as conn:
        add_account(conn, "x/agency")
        token = keys.create(conn, name="reader", scopes=[])
        key_id = token.split("_")[1]
    settings = fakes.settings(database_url, redis_url, API_REQUIRE_KEY="true")
    with in_process(settings) as api:
        api.wait_until_it_hears_purges()
        for level in ("miss", "l1"):
            answer = api.get("/api/summary", Authorization=f"Bearer {token}")
            assert (answer.status_code, answer.headers["x-cache"]) == (200, level)
            assert answer.headers["cache-control"].startswith("private")
        wrong = token[:-1] + ("1" if token.endswith("0") else "0")
        for authorization in ("", "Bearer", f"Basic {token}", f"Bearer {wrong}", "Bearer rc_\xff_"):
            for path in ("/api/summary", "/", "/api/jobs/x", "/api/history/x/agency"):
                refused = api.get(path, Authorization=authorization)
                if path == "/" and not authorization:
                    assert refused.headers["location"] == "/sign-in?next=%2F", "who says nothing to a page signs in"
                    continue
                assert refused.status_code == 401
                assert refused.headers["www-authenticate"].startswith("Bearer")
        assert api.get("/healthz").status_code == api.get("/readyz").status_code == 200
        with transaction(engine) as conn:
            keys.revoke(conn, key_id)
        purger(settings).purge({tags.key(key_id)})
        wait_for(
            lambda: api.get("/api/summary", Authorization=f"Bearer {token}").status_code == 401,
            "the revocation",
            within_s=2,  # less than a key is remembered without its purge
        )


def test_what_a_platform_does_not_offer_is_null_with_its_reason(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "youtube/agency"), 5)
        keep(conn, add_account(conn, "x/agency"), 5)
    reason = "only the channel's owner may read it"
    assert api.get("/api/accounts/youtube/agency").json["not_offered"] == {"following": reason}
    history = api.get("/api/history/youtube/agency").json
    assert history["not_offered"] == {"following": reason}
    assert set(history["following"]) == {None}
    assert api.get("/api/history/x/agency").json["not_offered"] == {}
    assert "not offered: only the channel&#39;s owner may read it" in api.get("/accounts").text
