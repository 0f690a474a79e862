"""Followers added up: what counts on a day, how many accounts a figure covers, and that what is kept is never wrong."""

import threading
import uuid
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from db import accounts, bulk, check, partitions, totals
from db.accounts import Facts
from db.engine import Connection, Engine, reading, transaction
from db.totals import Total, Which
from pipeline import beat
from tests import fakes
from tests.fakes import NOON
from tests.history import all_is_derived, keep, snapshot
from tests.jobs import listed, requested, said, saved, until_one_waits_for_a_lock
from tests.serving import add_account, days_ago, in_process, wait_for

DAY = timedelta(days=1)
TODAY = NOON.date()
ALL = Which()


def day(number: int) -> date:
    return TODAY + number * DAY


def figures(conn: Connection, first: int, last: int, which: Which = ALL) -> dict[int, tuple[Any, ...]]:
    """Return followers, accounts, carried, delta, compared by the number of the day."""
    found = totals.by_day(conn, which, day(first), day(last))
    return {(one - TODAY).days: tuple(getattr(t, n) for n in Total.__struct_fields__) for one, t in found.items()}


def followers(conn: Connection, first: int, last: int, which: Which = ALL) -> list[int | None]:
    return [row[0] for row in figures(conn, first, last, which).values()]


def kept_days(conn: Connection) -> set[date]:
    return set(conn.scalars(text("SELECT snapshot_date FROM day_total WHERE accounts IS NOT NULL")))


def bring(conn: Connection, key: int, numbers: Mapping[int, int | None], **fields: Any) -> None:
    bulk.upsert_snapshots(conn, [snapshot(key, day(n), count, **fields) for n, count in numbers.items()])


def test_a_day_without_a_reading_counts_with_the_last_number_for_six_days_and_is_then_absent(engine: Engine) -> None:
    with transaction(engine) as conn:
        bring(conn, listed(conn, "a")[0], {0: 10, 9: 12})
        assert figures(conn, -1, 9) == {
            -1: (None, 0, 0, None, 0),
            0: (10, 1, 0, None, 0),
            **dict.fromkeys(range(1, 7), (10, 1, 1, 0, 1)),
            7: (None, 0, 0, None, 0),
            8: (None, 0, 0, None, 0),
            9: (12, 1, 0, None, 0),
        }


def test_an_account_that_is_added_is_no_growth(engine: Engine) -> None:
    with transaction(engine) as conn:
        old, new = listed(conn, "old", "new")
        bring(conn, old, {0: 10, 1: 11})
        bring(conn, new, {1: 1_000})
        assert figures(conn, 1, 1) == {1: (1_011, 2, 0, 1, 1)}
        whole, _ = totals.between(conn, "platform", ALL, day(0), day(1))
        assert whole == Total(followers=1_011, accounts=2, carried=0, delta=1, compared=1)


def test_an_account_that_is_no_longer_read_is_no_loss(engine: Engine) -> None:
    with transaction(engine) as conn:
        stays, leaves = listed(conn, "stays", "leaves")
        bring(conn, stays, {0: 10, 30: 15})
        bring(conn, leaves, {0: 1_000})
        whole, _ = totals.between(conn, "platform", ALL, day(0), day(30))
        assert whole == Total(followers=15, accounts=1, carried=0, delta=5, compared=1)


def test_nothing_to_compare_is_unknown_and_not_zero(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "never")
        whole, by_platform = totals.between(conn, "platform", ALL, day(0), day(1))
        nothing = Total(followers=None, accounts=0, carried=0, delta=None, compared=0)
        assert (whole, by_platform) == (nothing, {"x": nothing})
        assert set(figures(conn, 0, 2).values()) == {(None, 0, 0, None, 0)}


def test_a_held_reading_doesn_t_count_and_a_confirmed_one_does(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        for n, count in enumerate((5_000, 0)):
            job = requested(conn, [key], now=NOON + n * DAY)
            saved(conn, job, said(job, count), now=NOON + n * DAY)
        assert figures(conn, 1, 1) == {1: (5_000, 1, 1, 0, 1)}
    assert totals.keep(engine, today=day(2)) == 2
    with transaction(engine) as conn:
        job = requested(conn, [key], now=NOON + 2 * DAY)
        saved(conn, job, said(job, 0), now=NOON + 2 * DAY)
        assert figures(conn, 1, 2) == {1: (0, 1, 0, -5_000, 1), 2: (0, 1, 0, 0, 1)}
        assert kept_days(conn) == {day(0)}
    assert all_is_derived(engine)


def test_a_newest_reading_without_a_number_ends_what_was_carried(engine: Engine) -> None:
    with transaction(engine) as conn:
        bring(conn, listed(conn, "a")[0], {0: 10, 2: None})
        assert followers(conn, 0, 3) == [10, 10, None, None]
        whole, _ = totals.between(conn, "platform", ALL, day(0), day(3))
        assert (whole.followers, whole.accounts, whole.delta) == (None, 0, None)


def test_groups_and_filters_cover_the_accounts_that_they_name(engine: Engine) -> None:
    with transaction(engine) as conn:
        first, second = listed(conn, "a", org_name="First")[0], listed(conn, "b", org_name="Second")[0]
        third, alone = listed(conn, "c", platform="bluesky", org_name="First")[0], listed(conn, "d")[0]
        for key, count in ((first, 1), (second, 20), (third, 300), (alone, 4_000)):
            bring(conn, key, {0: count, 1: 2 * count})
        named = {}
        for group in ("platform", "org_name"):
            whole, found = totals.between(conn, group, ALL, day(0), day(1))
            assert (whole.followers, whole.delta, whole.compared) == (8_642, 4_321, 4)
            named |= {name: (total.followers, total.delta, total.accounts) for name, total in found.items()}
        assert named == {
            "x": (8_042, 4_021, 3),
            "bluesky": (600, 300, 1),
            None: (8_000, 4_000, 1),
            "First": (602, 301, 2),
            "Second": (40, 20, 1),
        }
    for which, expected in (
        (Which(platform="x"), 4_021),
        (Which(org="First"), 301),
        (Which(platform="x", org="First"), 1),
        (Which(org="Nobody"), None),
    ):
        with reading(engine) as conn:
            assert followers(conn, 0, 0, which) == [expected]
        totals.keep(engine, today=day(1))
        with reading(engine) as conn:
            assert followers(conn, 0, 0, which) == [expected], "kept"


def test_days_that_are_over_are_added_up_once_newest_first_and_today_never(engine: Engine) -> None:
    with transaction(engine) as conn:
        bring(conn, listed(conn, "a")[0], dict.fromkeys((0, 1, 2, 3), 10))
        before = figures(conn, -2, 4)
    assert totals.keep(engine, today=day(3), most=2) == 2
    with transaction(engine) as conn:
        assert kept_days(conn) == {day(1), day(2)}
    assert [totals.keep(engine, today=day(3)) for _ in range(2)] == [1, 0]
    with transaction(engine) as conn:
        assert kept_days(conn) == {day(0), day(1), day(2)}
        assert figures(conn, -2, 4) == before


def test_what_is_kept_is_answered_without_reading_history(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "a")[0], *(day(n) for n in range(20)))
    while totals.keep(engine, today=day(20)):
        pass
    read_so_far = text(
        "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_xact_user_tables"
        " WHERE relname LIKE 'fact_followers_snapshot%'"
    )
    with transaction(engine) as conn:
        before = conn.scalar(read_so_far)
        assert followers(conn, 0, 19) == [5] * 20
        assert conn.scalar(read_so_far) == before


CHANGES: dict[str, str] = {
    "a correction": "UPDATE fact_followers_snapshot SET followers = 99 WHERE snapshot_date = '2026-03-05'",
    "a deletion": "DELETE FROM fact_followers_snapshot WHERE snapshot_date = '2026-03-05'",
    "another day": """
        INSERT INTO fact_followers_snapshot (account_key, snapshot_date, followers, captured_at, source, precision)
        VALUES (2, '2026-03-05', 7, now(), 'live', 'exact')
    """,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_day_and_those_that_it_counts_for_are_added_up_anew(engine: Engine, change: str) -> None:
    with transaction(engine) as conn:
        a, b = listed(conn, "a", "b")
        keep(conn, a, *(day(n) for n in range(14)))
        keep(conn, b, day(0))
    while totals.keep(engine, today=day(14)):
        pass
    with transaction(engine) as conn:
        conn.execute(text(CHANGES[change]))
        assert kept_days(conn) == {day(n) for n in (0, 1, 2, 11, 12, 13)}
        check.repair(conn)
    while totals.keep(engine, today=day(14)):
        pass
    assert all_is_derived(engine)


def test_another_organisation_or_an_account_less_is_added_up_anew(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", org_name="First")
        for key in keys:
            keep(conn, key, day(0), day(1))
    totals.keep(engine, today=day(2))
    with transaction(engine) as conn:
        accounts.change(conn, {keys[0]: Facts(org_name="Second", owner_team="Web")}, now=NOON)
        assert kept_days(conn) == set()
        assert followers(conn, 0, 1, Which(org="First")) == [5, 5]
    totals.keep(engine, today=day(2))
    with transaction(engine) as conn:
        accounts.change(conn, {keys[0]: Facts(org_name="Second", owner_team="Press")}, now=NOON)
        assert kept_days(conn) == {day(0), day(1)}, "the team is nobody's total"
        conn.execute(text("DELETE FROM dim_account WHERE account_key = :key"), {"key": keys[1]})
        assert followers(conn, 0, 1) == [5, 5]
        check.repair(conn)
    assert all_is_derived(engine)


def test_what_the_retention_takes_out_is_carried_into_no_later_day(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        partitions.cover(conn, [date(2025, 12, 31)])
        keep(conn, key, date(2025, 12, 31), date(2026, 1, 20))
    while totals.keep(engine, today=TODAY, most=30):
        pass
    with transaction(engine) as conn:
        assert totals.by_day(conn, ALL, date(2026, 1, 5), date(2026, 1, 5))[date(2026, 1, 5)].followers == 5
        partitions.retire(conn, today=date(2027, 1, 2), months=12, action="drop")
        assert totals.by_day(conn, ALL, date(2026, 1, 5), date(2026, 1, 5))[date(2026, 1, 5)].followers is None
    assert all_is_derived(engine)


def test_a_day_that_changes_while_it_is_added_up_is_not_kept(engine: Engine) -> None:
    def add_up() -> None:
        with transaction(engine) as conn:
            totals._add_up(conn, day(0), day(0))

    with transaction(engine) as conn:
        keep(conn, listed(conn, "a")[0], day(0))
        conn.execute(totals._MARK, {"days": [day(0)]})
    with ThreadPoolExecutor(1) as pool, transaction(engine) as writer:
        writer.execute(text("UPDATE fact_followers_snapshot SET followers = 77"))
        adding_up = pool.submit(add_up)  # from what it can see: the number that is about to go
        until_one_waits_for_a_lock(engine)
        writer.commit()
        adding_up.result(10)
    with transaction(engine) as conn:
        assert kept_days(conn) == set()
        assert followers(conn, 0, 0) == [77]


def test_adding_up_waits_for_those_who_write_before_it_marks_a_day(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, day(0))
    with ThreadPoolExecutor(1) as pool, transaction(engine) as writer:
        keep(writer, key, day(0), followers=77)
        adding_up = pool.submit(totals.keep, engine, today=day(1))
        until_one_waits_for_a_lock(engine)
        writer.commit()
        adding_up.result(10)
    with transaction(engine) as conn:
        assert kept_days(conn) == {day(0)}
        assert followers(conn, 0, 0) == [77]


def test_beat_adds_up_every_day_that_is_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "a")[0], *(days_ago(n) for n in range(20)))
    monkeypatch.setattr(beat, "TOTALS_S", 0.01)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        adding_up = pool.submit(beat.add_up, engine, stop)
        try:
            wait_for(lambda: _kept_in(engine) == {days_ago(n) for n in range(1, 20)}, "every day that is over")
        finally:
            stop.set()
        adding_up.result(10)


def _kept_in(engine: Engine) -> set[date]:
    with reading(engine) as conn:
        return kept_days(conn)


def test_a_wrong_total_is_named_and_mended(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "a", org_name="First")[0], day(0))
    totals.keep(engine, today=day(1))
    with transaction(engine) as conn:
        conn.execute(text("UPDATE day_total SET followers = 9 WHERE org_name = 'First'"))
        (found,) = check.repair(conn)
        assert (found.what, found.where) == ("total of a day", "2026-03-02 First")
        assert (found.stored, found.true) == ("9 1 0 0", "5 1 0 0")
    assert all_is_derived(engine)


# Any row of changes, against a model in plain Python

NUMBER = st.integers(0, 2)
COUNT = st.sampled_from([None, 0, 5, 70, 900])
STEPS = st.one_of(
    st.tuples(st.just("read"), NUMBER, st.sampled_from([0, 1, 1, 2, 8]), COUNT),
    st.tuples(st.just("bring"), NUMBER, st.dictionaries(st.integers(0, 20), COUNT, min_size=1, max_size=4)),
    st.tuples(st.just("move"), NUMBER, st.sampled_from([None, "First", "Second"])),
    st.tuples(st.just("keep")),
)


class Summed:
    """A database whose totals are kept now and then, and the accepted numbers by account and day."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.now = datetime.combine(TODAY, NOON.time(), UTC)
        with transaction(engine) as conn:
            self.keys = listed(conn, *(uuid.uuid4().hex for _ in range(3)), org_name="First")
        self.numbers: dict[int, dict[date, int | None]] = {key: {} for key in self.keys}
        self.orgs: dict[int, str | None] = dict.fromkeys(self.keys, "First")
        self.imported: set[tuple[int, date]] = set()

    def read(self, n: int, days: int, count: int | None) -> None:
        key, self.now = self.keys[n], self.now + days * DAY
        with transaction(self.engine) as conn:
            job = requested(conn, [key], now=self.now)
            assert saved(conn, job, said(job, count, external_id=f"id-{key}"), now=self.now)
        self.numbers[key][self.now.date()] = count
        self.imported.discard((key, self.now.date()))

    def bring(self, n: int, ago: dict[int, int | None]) -> None:
        key = self.keys[n]
        numbers = {self.now.date() - days * DAY: count for days, count in ago.items()}
        with transaction(self.engine) as conn:
            bulk.upsert_snapshots(conn, [snapshot(key, one, count) for one, count in numbers.items()])
        for one, count in numbers.items():
            if one not in self.numbers[key] or (key, one) in self.imported:
                self.numbers[key][one] = count
                self.imported.add((key, one))

    def move(self, n: int, org: str | None) -> None:
        with transaction(self.engine) as conn:
            accounts.change(conn, {self.keys[n]: Facts(org_name=org)}, now=self.now)
        self.orgs[self.keys[n]] = org

    def keep(self) -> None:
        totals.keep(self.engine, today=self.now.date(), most=40)

    def counts(self, key: int, on: date) -> int | None:
        newest = max((one for one in self.numbers[key] if on - 6 * DAY <= one <= on), default=None)
        return None if newest is None else self.numbers[key][newest]

    def total(self, keys: list[int], on: date, since: date) -> Total:
        now = {key: count for key in keys if (count := self.counts(key, on)) is not None}
        then = {key: count for key in now if (count := self.counts(key, since)) is not None}
        return Total(
            followers=sum(now.values()) if now else None,
            accounts=len(now),
            carried=sum(on not in self.numbers[key] for key in now),
            delta=sum(now[key] - count for key, count in then.items()) if then else None,
            compared=len(then),
        )

    def compare(self) -> None:
        last = self.now.date()
        with transaction(self.engine) as conn:
            for org in (None, "First", "Second"):
                keys = [key for key in self.keys if org in (None, self.orgs[key])]
                found = totals.by_day(conn, Which(org=org), last - 25 * DAY, last)
                assert found == {one: self.total(keys, one, one - DAY) for one in found}
                whole, _ = totals.between(conn, "org_name", Which(org=org), last - 9 * DAY, last)
                assert whole == self.total(keys, last, last - 9 * DAY)
            check_found = list(check.differences(conn))
            assert check_found == []


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, min_size=1, max_size=7))
def test_any_row_of_changes_is_added_up_as_in_the_model(engine: Engine, steps: list[tuple[Any, ...]]) -> None:
    with transaction(engine) as conn:
        conn.execute(text("TRUNCATE dim_account, fact_followers_snapshot, day_count, day_total, dataset CASCADE"))
    both = Summed(engine)
    for step, *values in steps:
        getattr(both, step)(*values)
        both.compare()


# GET /api/totals


def test_the_api_says_what_each_figure_covers(database_url: str, redis_url: str, engine: Engine) -> None:
    with transaction(engine) as conn:
        old = add_account(conn, "x/old", org_name="First")
        new = add_account(conn, "bluesky/new")
        for ago, count in ((7, 100), (0, 110)):
            keep(conn, old, days_ago(ago), followers=count)
        keep(conn, new, days_ago(1), followers=7)
    with in_process(fakes.settings(database_url, redis_url)) as api:
        answer = api.get(f"/api/totals?from={days_ago(7)}").json
        assert list(answer) == ["group", "from", "to", "as_of", "total", "items"]
        assert (answer["group"], answer["from"], answer["to"]) == ("platform", f"{days_ago(7)}", f"{days_ago(0)}")
        assert answer["as_of"] == f"{days_ago(0)}T23:59:00Z"
        assert answer["total"] == {"followers": 117, "accounts": 2, "carried": 1, "delta": 10, "compared": 1}
        assert list(answer["items"][0]) == ["platform", "followers", "accounts", "carried", "delta", "compared"]
        assert [list(item.values()) for item in answer["items"]] == [
            ["x", 110, 1, 0, 10, 1],
            ["bluesky", 7, 1, 1, None, 0],
        ]
        by_org = api.get(f"/api/totals?group=org&from={days_ago(7)}&fields=org_name,delta").json
        assert by_org["items"] == [{"org_name": "First", "delta": 10}, {"org_name": None, "delta": None}]
        by_day = api.get(f"/api/totals?group=day&from={days_ago(1)}&to={days_ago(-9)}&platform=bluesky").json
        assert by_day["to"] == f"{days_ago(0)}", "nothing is carried into days that nobody can have read"
        assert [list(item.values()) for item in by_day["items"]] == [
            [f"{days_ago(1)}", 7, 1, 0, None, 0],
            [f"{days_ago(0)}", 7, 1, 1, 0, 1],
        ]
        assert len(api.get("/api/totals?group=day").json["items"]) == 365
        assert api.get("/api/totals?group=day").headers["x-cache"] == "l1"
        for query, field in (
            ("group=week", "group"),
            ("platform=aol", "platform"),
            ("fields=date", "fields"),
            ("from=2026-02-30", "from"),
            (f"from={days_ago(0)}&to={days_ago(1)}", "from"),
        ):
            refused = api.get(f"/api/totals?{query}")
            assert refused.status_code == 400
            assert [error["field"] for error in refused.json["errors"]] == [field]


def test_a_reading_is_in_the_next_answer(database_url: str, redis_url: str, engine: Engine) -> None:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        assert api.get("/api/totals").json["total"]["followers"] is None
        with transaction(engine) as conn:
            key = listed(conn, "a", now=datetime.now(UTC))[0]
            job = requested(conn, [key], now=datetime.now(UTC))
            changes = saved(conn, job, said(job, 3), now=datetime.now(UTC))
        assert changes is not None
        assert api.get("/api/totals").headers["surrogate-key"] in changes.tags
