"""Snapshots in bulk: what is kept, what gives way, and what follows."""

from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from db import bulk, derived
from db.bulk import Upserted
from db.engine import Connection, Engine, transaction
from tests.fakes import NOON
from tests.history import all_is_derived, counts, keep, snapshot
from tests.jobs import listed, requested, said, saved

TODAY = NOON.date()
DAY = timedelta(days=1)


def _row(conn: Connection, day: date = TODAY) -> Any:
    return conn.execute(
        text("SELECT *, xmin FROM fact_followers_snapshot WHERE snapshot_date = :day"), {"day": day}
    ).one()


def _read(conn: Connection, key: int, followers: int) -> None:
    job = requested(conn, [key])
    assert saved(conn, job, said(job, followers)) is not None


def test_old_days_of_an_account_change_its_deltas_and_the_counts(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a", org_name="Org")[0]
        _read(conn, key, 100)
        assert keep(conn, key, *(TODAY - n * DAY for n in (1, 7, 30, 400)), followers=90) == Upserted(4, 0)
        latest = conn.execute(text("SELECT * FROM account_latest")).one()
        assert (latest.snapshot_date, latest.delta_1d, latest.delta_7d, latest.delta_30d) == (TODAY, 10, 10, 10)
        assert counts(conn)["", "Org", TODAY - 400 * DAY] == counts(conn)["x", "", TODAY] == 1
    assert all_is_derived(engine)


def test_every_number_arrives_as_it_was_given_and_unknown_stays_null(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        given = snapshot(
            key, TODAY, None, following=0, posts=2**62, engagement=3, precision="rounded", captured_at=NOON
        )
        bulk.upsert_snapshots(conn, [given])
        row = _row(conn)
    assert (row.followers, row.following, row.posts, row.engagement) == (None, 0, 2**62, 3)
    assert (row.captured_at, row.source, row.precision) == (NOON, "imported", "rounded")


def test_what_is_given_again_is_not_written_again(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY)
    with transaction(engine) as conn:
        before = _row(conn)
        latest = conn.execute(text("SELECT xmin FROM account_latest")).scalar()
        assert keep(conn, key, TODAY) == Upserted(0, 0)
        assert _row(conn) == before
        assert conn.execute(text("SELECT xmin FROM account_latest")).scalar() == latest


def test_a_correction_replaces_what_was_imported_beside_new_days(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY, followers=5)
        assert keep(conn, key, TODAY - DAY, TODAY, followers=6) == Upserted(1, 1)
        assert _row(conn).followers == 6
        assert counts(conn)["x", "", TODAY] == 1
    assert all_is_derived(engine)


@pytest.mark.parametrize(("asked", "kept"), [(False, 100), (True, 5)])
def test_a_live_reading_gives_way_only_when_asked(engine: Engine, asked: bool, kept: int) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        _read(conn, key, 100)
        bulk.upsert_snapshots(conn, [snapshot(key, TODAY, 5)], overwrite_live=asked)
        assert _row(conn).followers == kept
    assert all_is_derived(engine)


def test_what_the_platform_says_replaces_what_was_imported_for_the_day(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY, followers=5)
        _read(conn, key, 100)
        assert (_row(conn).followers, _row(conn).source) == (100, "simulated")
        assert conn.execute(text("SELECT followers FROM account_latest")).scalar() == 100
    assert all_is_derived(engine)


def test_of_a_day_given_twice_the_later_one_counts_and_strangers_are_left_out(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        given = [
            snapshot(key, TODAY, 2, captured_at=NOON + DAY),
            snapshot(key, TODAY, 1, captured_at=NOON),
            snapshot(key + 1, TODAY, 3),
        ]
        assert bulk.upsert_snapshots(conn, given) == Upserted(1, 0)
        assert _row(conn).followers == 2
    assert all_is_derived(engine)


def test_nothing_given_changes_nothing(engine: Engine) -> None:
    with transaction(engine) as conn:
        assert bulk.upsert_snapshots(conn, []) == Upserted(0, 0)


def test_more_rows_than_one_piece_of_the_copy_arrive_in_one_transaction_with_others(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, *(f"a{n}" for n in range(40)))
        for start in (TODAY, TODAY - 90 * DAY):
            given = (snapshot(key, start - n * DAY, n) for key in keys for n in range(90))
            assert bulk.upsert_snapshots(conn, given) == Upserted(3_600, 0)
    assert all_is_derived(engine)


def test_accounts_of_one_batch_end_right_whether_its_days_lie_ahead_of_their_newest_behind_it_or_on_it(
    engine: Engine,
) -> None:
    with transaction(engine) as conn:
        ahead, behind, between, unread = listed(conn, "a", "b", "c", "d", org_name="Org")
        for key in (ahead, behind, between):
            keep(conn, key, TODAY - 30 * DAY, TODAY - DAY, followers=10)
        keep(conn, behind, TODAY + DAY, followers=10)
        given = [
            *(snapshot(ahead, TODAY - n * DAY, 13) for n in (0, 7)),
            *(snapshot(behind, TODAY - n * DAY, 13) for n in (0, 40)),
            *(snapshot(between, TODAY - n * DAY, 13) for n in (1, 31)),
            *(snapshot(unread, TODAY - n * DAY, 13) for n in (0, 1)),
        ]
        assert bulk.upsert_snapshots(conn, given) == Upserted(7, 1)
        found = conn.execute(
            text("SELECT snapshot_date, delta_1d, delta_7d, delta_30d FROM account_latest ORDER BY account_key")
        )
        assert [tuple(row) for row in found] == [
            (TODAY, 3, 0, 3),
            (TODAY + DAY, -3, None, None),
            (TODAY - DAY, None, None, 0),
            (TODAY, 0, None, None),
        ]
    assert all_is_derived(engine)


def test_an_imported_reading_that_is_held_is_nobodys_newest_number(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b")
        keep(conn, keys[0], TODAY - DAY, followers=10)
        for held_day in (TODAY, TODAY + DAY):
            bulk.upsert_snapshots(conn, [snapshot(key, held_day, 99, precision="held") for key in keys])
        found = conn.execute(text("SELECT account_key, snapshot_date, followers FROM account_latest"))
        assert [tuple(row) for row in found] == [(keys[0], TODAY - DAY, 10)]
        keep(conn, keys[0], TODAY + 2 * DAY, followers=11)
        assert conn.execute(text("SELECT followers, delta_1d FROM account_latest")).one() == (11, None)
    assert all_is_derived(engine)


def test_a_newest_number_that_an_import_lies_behind_is_not_written(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY)
    with transaction(engine) as conn:
        before = conn.execute(text("SELECT xmin FROM account_latest")).scalar()
        keep(conn, key, *(TODAY - n * DAY for n in (2, 8, 29)))
        assert conn.execute(text("SELECT xmin FROM account_latest")).scalar() == before


def test_a_newest_number_that_a_correction_leaves_as_it_is_is_not_written(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY - DAY, TODAY)
    with transaction(engine) as conn:
        before = conn.execute(text("SELECT xmin FROM account_latest")).scalar()
        assert bulk.upsert_snapshots(conn, [snapshot(key, TODAY - DAY, 5, posts=3)]) == Upserted(0, 1)
        assert conn.execute(text("SELECT xmin FROM account_latest")).scalar() == before
        assert bulk.upsert_snapshots(conn, [snapshot(key, TODAY - DAY, 4, posts=3)]) == Upserted(0, 1)
        assert conn.execute(text("SELECT delta_1d FROM account_latest")).scalar() == 1
    assert all_is_derived(engine)


def test_a_newest_day_that_was_taken_away_by_hand_stops_no_import(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, TODAY)
        conn.execute(text("DELETE FROM fact_followers_snapshot"))
        assert keep(conn, key, TODAY - DAY) == Upserted(1, 0)
        derived.rederive(conn, [key])
        assert conn.execute(text("SELECT snapshot_date FROM account_latest")).scalar() == TODAY - DAY
