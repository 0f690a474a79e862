"""What every read of the API costs: no large table from end to end, and few more rows read than returned.

The statements are found by asking for every route that the app has, so a new one is covered without anyone's help.
"""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from falcon.inspect import inspect_routes
from msgspec import Struct
from redis.asyncio import Redis
from sqlalchemy import event, text

from api.app import create_app
from db import derived, grid, jobs, posts
from db.engine import Engine, make_engine, reading, transaction
from db.reads import SORTABLE
from tests import fakes
from tests.serving import InProcess, in_process

ACCOUNTS = 4_000
DAYS = 40
JOB = "00000000-0000-0000-0000-000000000007"
# What a route's placeholders stand for.
NAMES = {
    "platform": "x",
    "handle": "h1600",
    "job_id": JOB,
    "key_id": "0",
    "annotation_id": "1",
    "version": "0",
    "path": "app.css",
}
# What a route can't be asked without.
NEEDED = {"/charts/suggest": "?q=h16"}
# Rows from which on a table must not be read from end to end.
LARGE = 1_000
MOST_ROWS_PER_ROW = 10
# Whatever a request may read of them, it is of one account's rows, or of a few days'.
NEVER_WHOLE = ("fact_social_post", "account_gap")

_OF_ACCOUNTS = ("dim_account", "account_latest", "scrape_state")
# Requests, their statements, the tables that these may read from end to end, and why: all cost accounts, no history.
ALLOWED: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (r"^/", r"^SELECT count\(\*\) AS", _OF_ACCOUNTS, "counts the accounts that pass the filters, for `total`"),
    (r"^/$", r"^SELECT", _OF_ACCOUNTS, "the page: all accounts by status and by group, and who moved most"),
    (
        r"^/(accounts|grid|compare|charts/suggest)\b",
        r"^SELECT",
        _OF_ACCOUNTS,
        "pages: all accounts by status, the largest ones, and the names of all organisations",
    ),
    (
        r"^/(compare|charts/(compare|platforms))",
        r"SELECT day",
        ("dim_account", "fact_followers_snapshot"),
        "adds up the days that aren't added up yet",
    ),
    (r"[?&]sort=-?(?!account_key)", r"^SELECT", _OF_ACCOUNTS, "sorts the list of accounts by any column"),
    (r"[?&]status=", r"^SELECT", _OF_ACCOUNTS, "how an account stands follows from the clock"),
    (r"[?&](org|q|core)=", r"^SELECT", _OF_ACCOUNTS, "filters the list by what few accounts may have"),
    (
        r"^/api/annotations",
        r"^SELECT",
        ("annotation", "dim_account"),
        "sorts all notes, which people write one by one",
    ),
    (r"^/api/health/data", r"^SELECT", ("dim_account", "scrape_state"), "counts all accounts by how they stand"),
    (
        r"^/health",
        r"FROM account_gap",
        ("account_gap", "dim_account", "fact_followers_snapshot"),
        "the accounts that weren't read, by day and reason: their ranges, and a look at each one's days",
    ),
    (r"^/health", r"SELECT", _OF_ACCOUNTS, "counts all accounts by how they stand, are read and were listed"),
    (r"^/(exports|performance|method)", r"^SELECT", _OF_ACCOUNTS, "all accounts by status"),
    (r"^/exports", r"^SELECT count", ("fact_social_post",), "counts posts, no further than 100,000"),
    (r"^/api/(grid|totals)", r"^SELECT max", ("account_latest",), "when the newest numbers were read"),
    (r"^/api/grid", r"day_count", ("day_count",), "finds the days, and adds up how many rows they have: a row a day"),
    (
        r"^/api/grid\?page=",
        r"^SELECT page",
        ("fact_followers_snapshot",),
        "the keys of one day that lie before the page",
    ),
    (
        r"^/api/grid\?.*org=",
        r"^SELECT page",
        ("fact_followers_snapshot",),
        "meets some accounts among the keys of a day",
    ),
    (
        r"^/api/grid\?.*(core|status|q)=",
        r"^SELECT",
        (*_OF_ACCOUNTS, "fact_followers_snapshot"),
        "finds out which accounts pass, and counts their days",
    ),
    (
        r"^/api/grid\?.*org=",
        r"^SELECT dim_account",
        ("dim_account",),
        "finds out which accounts are of an organisation",
    ),
    (r"^/api/grid", r"^SELECT dim_account.account_key", ("dim_account",), "finds out whether few accounts pass"),
    (r"^/api/movers", r"^SELECT", _OF_ACCOUNTS, "sorts the accounts by how much they changed"),
    (r"^/api/posts", r"^SELECT count", ("fact_social_post",), "counts one account's posts"),
    (
        r"^/api/posts.*sort=-?(?!published_at)",
        r"^SELECT",
        ("fact_social_post",),
        "sorts one account's posts by what changes with every reading",
    ),
    (r"^/api/jobs", r"^SELECT count", ("scrape_job",), "counts as far as counting is quick"),
    (r"^/api/jobs\?page=", r"^SELECT", ("scrape_job",), "reads what lies before a page, as far as jobs are counted"),
    (
        r"^/api/totals",
        r"SELECT (day|grouping)",
        ("dim_account", "fact_followers_snapshot"),
        "adds up every account's number at both ends, and the days that aren't added up yet",
    ),
)

FILL = """
    INSERT INTO dim_account (platform, handle, external_id, url, org_name, is_core_account)
    SELECT (ARRAY['x', 'youtube', 'bluesky', 'reddit'])[1 + n % 4], 'h' || n, 'id' || n, 'https://x.example/' || n,
        'org' || n % 40, n % 50 = 0
    FROM generate_series(1, :accounts) AS n;
    INSERT INTO account_handle (account_key, handle) SELECT account_key, handle FROM dim_account;
    INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at, result, last_attempt_at, last_success_at)
    SELECT account_key, subject, platform, CASE subject WHEN 'posts' THEN 'posts' ELSE 'profiles' END,
        now() + interval '1 hour', 'ok', now(), now()
    FROM dim_account, unnest(ARRAY['profile', 'posts']) AS subject;
    INSERT INTO fact_followers_snapshot (account_key, snapshot_date, followers, captured_at, source, precision)
    SELECT account_key, current_date - ago, 1000 + account_key, now() - ago * interval '1 day', 'live', 'exact'
    FROM dim_account, generate_series(0, :days - 1) AS ago;
    INSERT INTO account_latest (account_key, snapshot_date, captured_at, followers, delta_1d, source, precision)
    SELECT account_key, current_date, now(), 1000 + account_key, 0, 'live', 'exact' FROM dim_account;
    INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, likes, read_at, source)
    SELECT account_key, 'p' || n, 'https://x.example/p', now() - n * interval '1 day', 'post', 'Words', n, now(), 'live'
    FROM dim_account, generate_series(1, 5) AS n;
    INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, likes, read_at, source)
    SELECT account_key, 'q' || n, 'https://x.example/q', now() - n * interval '1 hour', 'post', 'Words', n, now(), 'live'
    FROM dim_account, generate_series(1, 3000) AS n WHERE handle = 'h1600';
    INSERT INTO scrape_job (job_id, platform, kind, lane, state, accounts, lease_until, created_at, finished_at)
    SELECT lpad(n::text, 32, '0')::uuid, 'x', 'profiles', 'core', 'succeeded', ARRAY[n], now(),
        now() - n * interval '1 minute', now()
    FROM generate_series(1, 20000) AS n;
    INSERT INTO account_gap (account_key, from_date, to_date, result, reason)
    SELECT account_key, current_date - 300 - n, current_date - 300 - n, 'failed', 'timed out'
    FROM dim_account, generate_series(1, 5) AS n;
    INSERT INTO account_gap (account_key, from_date, to_date, result, reason)
    SELECT account_key, current_date - 9, CASE WHEN account_key % 2 = 0 THEN current_date - 9 END, 'failed', 'timed out'
    FROM dim_account WHERE account_key % 50 = 0;
    INSERT INTO annotation (account_key, from_date, to_date, note, created_by)
    SELECT account_key, current_date - 3, current_date, 'Note', 'someone' FROM dim_account;
"""


class Statement(Struct, frozen=True):
    """What a route sent to the database; `parameters` are psycopg2's."""

    route: str
    sql: str
    parameters: Any


@pytest.fixture
def api(database_url: str, redis_url: str, engine: Engine) -> Iterator[InProcess]:
    with transaction(engine) as conn:
        conn.execute(text(FILL), {"accounts": ACCOUNTS, "days": DAYS})
        derived.recount(conn)
    with reading(engine) as conn:
        conn.execute(text("VACUUM ANALYZE"))
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


def test_no_read_of_the_api_scans_a_large_table_or_reads_far_more_rows_than_it_returns(
    api: InProcess, engine: Engine
) -> None:
    statements = _statements(api)
    assert {statement.route for statement in statements} >= {"/api/summary", "/api/history/x/h1600"}
    with reading(engine) as conn:
        sizes = dict(conn.execute(text("SELECT oid::regclass::text, reltuples FROM pg_class")).all())
        cursor: Any = conn.connection.driver_connection
        faults = [fault for statement in statements for fault in _faults(cursor.cursor(), statement, sizes)]
    assert not faults, "\n".join(faults)


def test_what_is_allowed_to_read_more_is_still_asked(api: InProcess) -> None:
    sent = _statements(api)
    for allowed in ALLOWED:
        assert any(_covers(allowed, statement) for statement in sent), f"nothing does so any more: {allowed}"


def _statements(api: InProcess) -> list[Statement]:
    """Return what a pass over all routes sends, each statement once."""
    found: dict[tuple[str, str], Statement] = {}
    route = ""

    def note(_conn: Any, _cursor: Any, sql: str, parameters: Any, *_: Any) -> None:
        found.setdefault((sql, repr(parameters)), Statement(route, sql, parameters))

    event.listen(api.engine, "before_cursor_execute", note)
    for route in _requests():
        answer = api.get(route)
        # 405: only written to; 303: only for who is signed in.
        assert answer.status_code in (200, 303, 405), (route, answer.text)
        if cursor := answer.headers.get("x-next-cursor"):
            path, _, query = route.partition("?")
            further = {name: value for name, value in parse_qsl(query) if name != "page"} | {"cursor": cursor}
            route = f"{path}?{urlencode(further)}"
            assert api.get(route).status_code == 200, route
    return list(found.values())


def _requests() -> list[str]:
    """Return every route that can be read, with its placeholders filled; lists in every order, with every filter."""
    settings = fakes.settings("postgresql:///nowhere", "redis://nowhere")
    engine = make_engine("postgresql+psycopg2:///nowhere")
    app = create_app(settings, engine, Redis.from_url("redis://nowhere"), enqueue=lambda *_, **__: None)
    requests = []
    for route in inspect_routes(app):
        if any(method.method == "GET" for method in route.methods):
            path = re.sub(r"{(\w+)(?::\w+)?}", lambda found: NAMES[found[1]], route.path)
            requests.append(path + NEEDED.get(path, ""))
            requests += [f"{path}?{query}" for query in _queries(path.removeprefix("/api/"))]
    return requests


def _queries(name: str) -> list[str]:
    of_accounts = ["platform=x", "org=org3", "core=true", "status=fresh", "q=h16"]
    asked: dict[str, list[str]] = {
        "totals": ["group=org", "group=day", "group=day&platform=x&org=org3"],
        "movers": [*of_accounts, "days=1&by=percent", "fields=handle,change"],
        "grid": [
            *of_accounts,
            "page=2",
            "page=900",
            "platform=x&org=org3",
            "from=2026-01-01",
            *_orders(grid.SORTABLE),
        ],
        "posts/x/h1600": ["page=2", "per_page=1", *_orders(posts.SORTABLE)],
        "jobs": [
            *("page=2", "page=150", "per_page=1", *_orders(jobs.SORTABLE)),
            *("platform=x", "platform=youtube", "kind=profiles", "kind=posts", "lane=core", "lane=retry"),
            *("state=succeeded", "state=failed", "state=running&platform=x", "platform=youtube&lane=core"),
        ],
        "/accounts": [*of_accounts, "page=2", *_orders(SORTABLE["summary"])],
        "/grid": [*of_accounts, "days=28&per_page=250", *_orders(SORTABLE["summary"])],
        "/health": ["platform=x"],
        "/performance": ["span=day"],
        **{path: ["s1=x/h1600&s2=youtube/h1&s3=org:org3"] for path in ("/compare", "/charts/compare")},
        **{of: [*of_accounts, "page=2", "fields=handle", *_orders(columns)] for of, columns in SORTABLE.items()},
    }
    return asked.get(name, [])


def _orders(columns: Sequence[str]) -> list[str]:
    return [f"sort={sign}{column}" for column in columns for sign in ("", "-")]


def _faults(cursor: Any, statement: Statement, sizes: dict[str, float]) -> Iterator[str]:
    cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement.sql}", statement.parameters)
    plan = json.loads(json.dumps(cursor.fetchone()[0]))[0]["Plan"]
    sql = " ".join(statement.sql.split())
    allowed = tuple(table for entry in ALLOWED if _covers(entry, statement) for table in entry[2])
    read = 0
    for node in _nodes(plan):
        table = node.get("Relation Name")
        if table is None or (
            table.startswith(allowed) and not (node["Node Type"] == "Seq Scan" and table in NEVER_WHOLE)
        ):
            continue
        removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        read += (node["Actual Rows"] + removed) * node["Actual Loops"]
        if node["Node Type"] == "Seq Scan" and sizes[table] > LARGE:
            yield f"{statement.route} reads all of {table}: {sql}"
    returned = max(plan["Actual Rows"] * plan["Actual Loops"], 1)
    if read > MOST_ROWS_PER_ROW * returned:
        yield f"{statement.route} reads {read:.0f} rows to return {returned:.0f}: {sql}"


def _covers(allowed: tuple[str, str, tuple[str, ...], str], statement: Statement) -> bool:
    request, beginning, _, _ = allowed
    return bool(re.search(request, statement.route) and re.search(beginning, statement.sql))


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)
