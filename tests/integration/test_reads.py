"""What the API's queries return, on a real PostgreSQL."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, event, insert, text

from db import jobs, keys, posts, reads
from db.dataset import source_of
from db.engine import Engine, reading, transaction
from db.jobs import Which
from db.keyset import After, Order, Window
from db.models import account_handle, annotation
from db.reads import Clock, Filters
from db.standing import StaleAfter
from tests.serving import add_account, days_ago, keep, stand

CLOCK = Clock(datetime.now(UTC), StaleAfter(interval_s=86_400, after_s=93_600))
ALL = Filters()


def names(conn: Connection, filters: Filters = ALL, order: Order | None = None, **window: Any) -> list[str]:
    listing = reads.summary(conn, filters, order or Order(), Window(**{"limit": 50, **window}), CLOCK)
    return [row.handle for row in listing.rows]


def test_a_summary_has_every_account_those_never_read_with_nulls_and_a_reason(engine: Engine) -> None:
    with transaction(engine) as conn:
        read = add_account(conn, "x/read", org_name="Harbour")
        keep(conn, read, 1100, following=5, posts=7, delta_7d=100)
        waiting = add_account(conn, "facebook/waiting")
        stand(conn, waiting, result="blocked", reason="no reader yet")
    with reading(engine) as conn:
        first, second = reads.summary(conn, ALL, Order(), Window(limit=9), CLOCK).rows
    assert (first.handle, first.followers, first.growth_7d_pct, first.status) == ("read", 1100, 10.0, "fresh")
    assert (second.handle, second.followers, second.captured_at) == ("waiting", None, None)
    assert (second.status, second.reason) == ("blocked", "no reader yet")


@pytest.mark.parametrize(
    ("followers", "delta_7d", "growth"),
    [(100, 100, None), (100, None, None), (None, None, None), (150, -50, -25.0), (3, 1, 50.0)],
)
def test_growth_is_null_where_it_can_not_be_derived(
    engine: Engine, followers: int | None, delta_7d: int | None, growth: float | None
) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/agency"), followers, delta_7d=delta_7d)
    with reading(engine) as conn:
        assert reads.summary(conn, ALL, Order(), Window(limit=1), CLOCK).rows[0].growth_7d_pct == growth


def test_filters_hold_together(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/harbour", org_name="Harbour 100%", is_core_account=True), 10)
        add_account(conn, "x/park", org_name="Parks", display_name="The Parks")
        add_account(conn, "bluesky/harbour.example", org_name="Harbour 100%")
        add_account(conn, "mastodon/office@town.example", is_active=False)
    with reading(engine) as conn:
        assert names(conn, Filters(platform="x")) == ["harbour", "park"]
        assert names(conn, Filters(org="Harbour 100%")) == ["harbour", "harbour.example"]
        assert names(conn, Filters(core=True)) == ["harbour"]
        assert names(conn, Filters(core=False, platform="x")) == ["park"]
        assert names(conn, Filters(status="fresh")) == ["harbour"]
        assert names(conn, Filters(status="paused")) == ["office@town.example"]
        assert names(conn, Filters(text="HARB")) == ["harbour", "harbour.example"]
        assert names(conn, Filters(text="the p")) == ["park"]
        assert names(conn, Filters(text="@town")) == ["office@town.example"]
        assert names(conn, Filters(text="0%")) == ["harbour", "harbour.example"], "a % is no wildcard"
        assert names(conn, Filters(text="_")) == []
        assert reads.extent(conn, "summary", Filters(platform="x"), CLOCK).total == 2


@pytest.mark.parametrize("of", ["summary", "accounts"])
@pytest.mark.parametrize("descending", [False, True])
def test_keyset_pages_meet_every_account_once_in_order_whatever_the_sort(
    engine: Engine, of: reads.ListName, descending: bool
) -> None:
    with transaction(engine) as conn:
        for number in range(23):
            key = add_account(conn, f"x/agency{number:02}", org_name=f"Org {number % 3}" if number % 4 else None)
            if number % 5:
                keep(conn, key, None if number % 7 == 0 else number % 6, delta_7d=number % 2, delta_1d=-number)
                stand(conn, key, failures=number % 2)
    rows = reads.summary if of == "summary" else reads.standings
    with reading(engine) as conn:
        for column in reads.SORTABLE[of]:
            order = Order(column, descending)
            whole = rows(conn, ALL, order, Window(limit=99), CLOCK).rows
            met: list[Any] = []
            after = None
            while True:
                part = rows(conn, ALL, order, Window(limit=4, after=after), CLOCK)
                met += part.rows
                if (after := part.after) is None:
                    break
            assert met == whole, column
            values = [getattr(row, column) for row in whole]
            known = [value for value in values if value is not None]
            assert known == sorted(known, reverse=descending), column
            assert values[: len(known)] == known, f"{column}: unknown ones come last"


@pytest.mark.parametrize(
    ("own_s", "platform_s", "read_hours_ago", "status"),
    [
        (None, None, 25, "fresh"),
        (None, None, 27, "stale"),
        (6 * 3_600, None, 6, "fresh"),
        (6 * 3_600, None, 7, "stale"),
        (7 * 86_400, None, 7 * 25, "fresh"),
        (7 * 86_400, None, 7 * 27, "stale"),
        (None, 7 * 86_400, 7 * 25, "fresh"),
        (None, 3_600, 2, "stale"),
        (7 * 86_400, 3_600, 30, "fresh"),
    ],
)
def test_numbers_are_stale_by_the_interval_of_the_account_else_of_its_platform(
    engine: Engine, own_s: int | None, platform_s: int | None, read_hours_ago: int, status: str
) -> None:
    now = datetime.now(UTC)
    stale_after = StaleAfter(
        interval_s=86_400, after_s=93_600, intervals_s={"x": platform_s, "flickr": 60} if platform_s else {}
    )
    with transaction(engine) as conn:
        key = add_account(conn, "x/goose", read_interval_s=own_s)
        stand(conn, key, result="ok", last_success_at=now - timedelta(hours=read_hours_ago))
        found = reads.standing(conn, key, Clock(now, stale_after))
    assert found is not None
    assert (found.status, found.read_interval_s) == (status, own_s)


MANY = (
    """INSERT INTO dim_account (platform, handle, url)
       SELECT 'x', 'agency' || n, 'https://x.example/agency' || n FROM generate_series(1, 30000) n""",
    """INSERT INTO scrape_state (account_key, subject, platform, kind, next_due_at)
       SELECT account_key, subject, 'x', 'profiles', now() FROM dim_account, (VALUES ('profile'), ('posts')) s(subject)""",
    """INSERT INTO account_latest (account_key, snapshot_date, captured_at, followers, source, precision)
       SELECT account_key, current_date, now(), account_key, 'live', 'exact' FROM dim_account""",
)


def rows_read(conn: Connection) -> int:
    """Return how many table rows this transaction has fetched so far."""
    tables = "('dim_account', 'account_latest', 'scrape_state')"
    fetched = "SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables WHERE relname IN "
    return int(conn.execute(text(fetched + tables)).scalar_one())


def test_a_page_deep_in_the_list_reads_its_own_rows_and_no_more(engine: Engine) -> None:
    with transaction(engine) as conn:
        for statement in MANY:
            conn.execute(text(statement))
        last = conn.execute(text("SELECT max(account_key) FROM dim_account")).scalar_one()
    with engine.connect() as conn:
        conn = conn.execution_options(isolation_level="AUTOCOMMIT")
        conn.execute(text("ANALYZE"))
        conn.execute(text("SELECT pg_stat_force_next_flush()"))  # else what follows counts what went before
    with transaction(engine) as conn:
        before = rows_read(conn)
        window = Window(limit=50, after=After(None, last - 200))
        assert len(reads.summary(conn, ALL, Order(), window, CLOCK).rows) == 50
        assert rows_read(conn) - before < 300  # of 90,000: the page, then its accounts in three tables


def rows_of_tables(conn: Connection) -> dict[str, int]:
    """Return how many rows of each table this transaction has fetched so far."""
    fetched = "SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables"
    return {name: int(rows) for name, rows in conn.execute(text(fetched)) if rows}


@pytest.mark.parametrize(
    ("fields", "filters", "tables"),
    [
        (("handle",), ALL, {"dim_account": 102}),
        (("org_name", "account_key"), Filters(platform="x"), {"dim_account": 102}),
        (("followers",), ALL, {"dim_account": 102, "account_latest": 51}),
        (("reason",), ALL, {"dim_account": 102, "scrape_state": 51}),
        (("status", "followers"), ALL, {"dim_account": 102, "account_latest": 51, "scrape_state": 51}),
    ],
)
def test_only_the_tables_of_the_fields_asked_for_are_read(
    engine: Engine, fields: tuple[str, ...], filters: Filters, tables: dict[str, int]
) -> None:
    with transaction(engine) as conn:
        for statement in MANY:
            conn.execute(text(statement))
    with engine.connect() as conn:
        conn = conn.execution_options(isolation_level="AUTOCOMMIT")
        conn.execute(text("ANALYZE"))
        conn.execute(text("SELECT pg_stat_force_next_flush()"))  # else what follows counts what went before
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cur, sql, *_: sent.append(sql))
    with transaction(engine) as conn:
        found = reads.part(conn, fields, filters, Order(), Window(limit=50), CLOCK)
        read = rows_of_tables(conn)
    assert {len(row) for row in found.rows} == {len(fields)}
    assert len(found.rows) == 50
    named = {
        name for name in ("dim_account", "account_latest", "scrape_state") if any(name in sql for sql in sent[:-1])
    }
    assert named == set(tables), "PostgreSQL leaves out a join that it needs not; planning it costs, too"
    few = 10  # of the ends of indexes, by which the planner estimates
    assert set(read) & {"dim_account", "account_latest", "scrape_state"} == set(tables)
    assert all(read[name] <= rows + few for name, rows in tables.items()), read


def test_fields_come_in_the_order_asked_for_whatever_the_list_is_sorted_by(engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(5):
            keep(conn, add_account(conn, f"x/agency{number}"), 10 - number, delta_7d=number)
    with reading(engine) as conn:
        order = Order("followers", descending=True)
        for fields in (("handle",), ("status", "handle", "growth_7d_pct"), ("followers", "account_key", "handle")):
            whole = reads.summary(conn, ALL, order, Window(limit=5), CLOCK).rows
            expected = [tuple(getattr(row, name) for name in fields) for row in whole]
            first = reads.part(conn, fields, ALL, order, Window(limit=2), CLOCK)
            further = reads.part(conn, fields, ALL, order, Window(limit=9, after=first.after), CLOCK)
            assert [tuple(row) for row in (*first.rows, *further.rows)] == expected


@pytest.mark.parametrize("descending", [False, True])
def test_posts_and_jobs_are_entered_anywhere_without_what_lies_before(engine: Engine, descending: bool) -> None:
    with transaction(engine) as conn:
        keys = [add_account(conn, f"x/agency{number}") for number in range(20)]
        conn.execute(
            text("""
                INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, read_at, source)
                SELECT account_key, 'p' || n, '', now() - n / 3 * interval '1 hour', 'post', '', now(), 'live'
                FROM dim_account, generate_series(1, 3000) AS n;
                INSERT INTO scrape_job (job_id, platform, kind, lane, state, accounts, lease_until, created_at)
                SELECT lpad(n::text, 32, '0')::uuid, 'x', 'profiles', 'core', 'succeeded', '{}', now(),
                    now() - n / 3 * interval '1 minute'
                FROM generate_series(1, 30000) AS n
            """)
        )
        (middle,) = conn.execute(text("SELECT now() - interval '500 hours'")).one()
        (earlier,) = conn.execute(text("SELECT now() - interval '5000 minutes'")).one()
    with engine.connect() as conn:
        conn = conn.execution_options(isolation_level="AUTOCOMMIT")
        conn.execute(text("ANALYZE"))
        conn.execute(text("SELECT pg_stat_force_next_flush()"))  # else what follows counts what went before
    with transaction(engine) as conn:
        window = Window(limit=50, after=After(middle, "p1501"))
        found = posts.part(conn, ("post_id",), keys[7], Order("published_at", descending), window)
        assert (len(found.rows), found.rows[0][0]) == (50, "p1502")
        window = Window(limit=50, after=After(earlier, str(UUID(int=0))))
        listed = jobs.part(conn, ("created_at",), Which(), Order("created_at", descending), window)
        assert (len(listed.rows), listed.rows[0][0]) == (50, earlier)
        read = rows_of_tables(conn)
    assert read["fact_social_post"] <= 60
    assert read["scrape_job"] <= 60


def test_days_are_those_of_the_range_oldest_first(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency")
        other = add_account(conn, "x/other")
        for ago in (40, 3, 2, 0):
            keep(conn, key, ago, days_ago(ago))
        keep(conn, other, 99, days_ago(1))
    with reading(engine) as conn:
        days = reads.days(conn, key, days_ago(3), days_ago(1))
        assert [(day.snapshot_date, day.followers) for day in days] == [(days_ago(3), 3), (days_ago(2), 2)]


def test_notes_are_the_accounts_its_organisations_and_everyones_that_touch_the_range(engine: Engine) -> None:
    def note(conn: Connection, said: str, first: int, last: int, **of: Any) -> None:
        days = {"from_date": days_ago(first), "to_date": days_ago(last)}
        conn.execute(insert(annotation).values(note=said, created_by="me", **days, **of))

    with transaction(engine) as conn:
        key, other = add_account(conn, "x/a", org_name="Parks"), add_account(conn, "x/b")
        note(conn, "own", 5, 5, account_key=key)
        note(conn, "organisation's", 9, 4, org_name="Parks")
        note(conn, "everyone's", 1, 0)
        note(conn, "too early", 9, 6, account_key=key)
        note(conn, "another's", 4, 4, account_key=other)
        note(conn, "another organisation's", 4, 4, org_name="Harbour")
    with reading(engine) as conn:
        found = reads.notes(conn, key, "Parks", days_ago(5), days_ago(1))
    assert [one.note for one in found] == ["organisation's", "own", "everyone's"]


def test_a_paused_account_is_due_at_no_time(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = add_account(conn, "x/agency", is_active=False)
        conn.execute(text("UPDATE scrape_state SET next_due_at = 'infinity'"))
    with reading(engine) as conn:
        account = reads.standing(conn, key, CLOCK)
    assert account is not None
    assert (account.status, account.next_due_at, account.consecutive_failures) == ("paused", None, 0)


def test_past_handles_follow_the_present_one(engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        key = add_account(conn, "x/present")
        for name, days in (("older", 90), ("old", 30)):
            seen = now - timedelta(days=days)
            conn.execute(
                insert(account_handle).values(account_key=key, handle=name, first_seen_at=seen, last_seen_at=seen)
            )
    with reading(engine) as conn:
        assert [past.handle for past in reads.handles(conn, key)] == ["present", "old", "older"]


def test_an_overview_adds_up_only_what_is_known(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, add_account(conn, "x/a"), 10)
        keep(conn, add_account(conn, "x/b"), None)
        add_account(conn, "x/c")
    with reading(engine) as conn:
        whole = reads.overview(conn, CLOCK)
    assert (whole.accounts, whole.read, whole.followers) == (3, 1, 10)
    assert whole.by_status == {"fresh": 2, "never": 1}


def test_an_empty_database_is_an_empty_answer_everywhere(engine: Engine) -> None:
    with reading(engine) as conn:
        assert reads.summary(conn, ALL, Order(), Window(limit=5), CLOCK).rows == []
        assert reads.extent(conn, "accounts", ALL, CLOCK) == reads.Extent(0, None)
        assert reads.overview(conn, CLOCK).followers is None
        assert source_of(conn) is None


def test_a_key_is_found_by_its_token_alone_and_never_after_it_was_revoked(engine: Engine) -> None:
    with transaction(engine) as conn:
        token = keys.create(conn, name="newsroom", scopes=["refresh", "refresh"])
        other = keys.create(conn, name="other", scopes=[])
    with transaction(engine) as conn:
        key = keys.find(conn, token)
        assert key is not None
        assert (key.name, key.scopes) == ("newsroom", {"refresh"})
        prefix, _, secret = token.rpartition("_")
        wrong = [
            f"{prefix}_{'0' * 64}",
            f"{other.rpartition('_')[0]}_{secret}",
            token[:-1],
            token + "0",
            "",
            "rc_",
            "\0",
        ]
        assert [keys.find(conn, one) for one in wrong] == [None] * len(wrong)
        assert keys.revoke(conn, key.key_id)
        assert keys.find(conn, token) is None
        assert not keys.revoke(conn, key.key_id), "it was revoked already"
        assert {one.name: one.revoked_at is None for one in keys.list_keys(conn)} == {
            "newsroom": False,
            "other": True,
        }


def test_no_secret_reaches_the_database(engine: Engine) -> None:
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda c, cur, sql, values, *_: sent.append(f"{sql} {values}"))
    with transaction(engine) as conn:
        secret = keys.create(conn, name="newsroom", scopes=["admin"]).rpartition("_")[2]
    assert sent
    assert not any(secret in statement for statement in sent)
