"""Partitions of the snapshots: made ahead, taken out when their time has passed, cut into another width."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import pytest
from sqlalchemy import event, text

from db import partitions, recut
from db.engine import Connection, DatabaseError, Engine, reading, transaction
from pipeline import beat
from tests import fakes
from tests.fakes import NOON
from tests.history import all_is_derived, counts, keep, partition_of_days
from tests.jobs import listed, requested, said, saved

TODAY = NOON.date()
DAY = timedelta(days=1)


def _names(conn: Connection) -> list[str]:
    return [part.name.removeprefix("fact_followers_snapshot_") for part in partitions.listed(conn)]


def _drop_all(engine: Engine) -> None:
    """Leave only the default partition, whatever year the tests run in."""
    with transaction(engine) as conn:
        for part in partitions.listed(conn):
            conn.execute(text(f"DROP TABLE {part.name}"))


@pytest.fixture
def bare(engine: Engine) -> Engine:
    _drop_all(engine)
    return engine


# Made ahead


@pytest.mark.parametrize(
    ("months", "made"),
    [(12, ["2031_01", "2032_01"]), (3, ["2031_10", "2032_01"]), (1, ["2031_12", "2032_01"])],
)
def test_partitions_are_aligned_to_their_width(engine: Engine, months: int, made: list[str]) -> None:
    with transaction(engine) as conn:
        names = partitions.ensure(conn, today=date(2031, 12, 31), months=months)
        assert [name.removeprefix("fact_followers_snapshot_") for name in names] == made
        assert partitions.ensure(conn, today=date(2031, 12, 31), months=months) == []


def test_a_width_that_changes_never_overlaps_and_leaves_no_day_without_a_partition(bare: Engine) -> None:
    with transaction(bare) as conn:
        partitions.ensure(conn, today=date(2031, 10, 5), months=1)
        partitions.ensure(conn, today=date(2031, 10, 6), months=12)
        assert _names(conn) == ["2031_10", "2031_11", "2032_01"]
        partitions.ensure(conn, today=date(2031, 12, 1), months=12)
        assert _names(conn) == ["2031_10", "2031_11", "2031_12", "2032_01"]


def test_partitions_made_twice_at_once_are_made_once(engine: Engine) -> None:
    def make(_: int) -> list[str]:
        with transaction(engine) as conn:
            return partitions.ensure(conn, today=date(2040, 6, 1))

    with ThreadPoolExecutor(3) as pool:
        assert sorted(map(len, pool.map(make, range(3)))) == [0, 0, 2]


def test_a_row_of_any_day_finds_room_and_moves_to_a_partition_of_its_own_later(bare: Engine) -> None:
    days = [date(1999, 1, 1), date(2015, 12, 31), date(2050, 7, 1)]
    with transaction(bare) as conn:
        key = listed(conn, "a")[0]
        keep(conn, key, *days)
        assert set(partition_of_days(conn).values()) == {"default"}
    with transaction(bare) as conn:
        partitions.ensure(conn, today=TODAY)
        assert partition_of_days(conn) == dict(zip(days, ("1999_01", "2015_01", "2050_01"), strict=True))
    assert all_is_derived(bare)


def test_days_that_will_come_in_bulk_get_their_partitions_first(bare: Engine) -> None:
    with transaction(bare) as conn:
        partitions.cover(conn, [date(2015, 2, 1), date(2015, 9, 1)], months=6)
        assert _names(conn) == ["2015_01", "2015_07"]


def test_a_partition_refuses_a_second_row_of_an_account_and_day(bare: Engine) -> None:
    row = "INSERT INTO fact_followers_snapshot VALUES (1, '2060-01-01', 5, 5, 5, 5, now(), 'live', 'exact')"
    with pytest.raises(DatabaseError, match="duplicate key"), transaction(bare) as conn:
        partitions.ensure(conn, today=date(2060, 1, 1))
        conn.execute(text(row))
        conn.execute(text(row))


def test_beat_makes_the_partitions_of_the_width_that_is_set_and_takes_out_old_ones(
    bare: Engine, database_url: str, redis_url: str
) -> None:
    with transaction(bare) as conn:
        keep(conn, listed(conn, "a")[0], date(2015, 3, 3))
    settings = fakes.settings(database_url, redis_url, PARTITION_MONTHS="3", RETENTION_MONTHS="24")
    beat.tidy(bare, date(2031, 5, 5), settings)
    with reading(bare) as conn:
        assert _names(conn) == ["2031_04", "2031_07"]
        assert [table.name for table in partitions.detached(conn)] == ["fact_followers_snapshot_2015_01_detached"]


def test_beat_goes_on_when_a_long_read_keeps_the_table(
    bare: Engine, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partitions, "_LOCK_TIMEOUT", text("SELECT set_config('lock_timeout', '50ms', true)"))
    with transaction(bare) as conn:
        keep(conn, listed(conn, "a")[0], date(2015, 3, 3))
        partitions.ensure(conn, today=TODAY)
    with transaction(bare) as reader:
        reader.execute(text("SELECT count(*) FROM fact_followers_snapshot"))
        beat.tidy(bare, TODAY, fakes.settings(database_url, redis_url, RETENTION_MONTHS="24"))
    with reading(bare) as conn:
        assert "2015_01" in _names(conn)


# Taken out


@pytest.mark.parametrize("action", ["detach", "drop"])
def test_what_follows_from_the_snapshots_is_right_after_old_ones_are_taken_out(
    bare: Engine, action: partitions.Action
) -> None:
    with transaction(bare) as conn:
        idle, active, lagging = listed(conn, "idle", "active", "lagging", org_name="Org")
        keep(conn, idle, date(2024, 1, 5))
        keep(conn, active, date(2024, 12, 31), date(2025, 1, 1), TODAY)
        keep(conn, lagging, date(2024, 12, 25), date(2025, 1, 1))
        partitions.ensure(conn, today=TODAY, months=12)
    with transaction(bare) as conn:
        retired = partitions.retire(conn, today=TODAY, months=14, action=action)
        assert [name.removesuffix("_detached") for name in retired] == ["fact_followers_snapshot_2024_01"]
        latest = {
            row.account_key: (row.snapshot_date, row.delta_7d)
            for row in conn.execute(text("SELECT * FROM account_latest"))
        }
        assert latest == {active: (TODAY, None), lagging: (date(2025, 1, 1), None)}
        assert {day for _, _, day in counts(conn)} == {date(2025, 1, 1), TODAY}
        stay = [] if action == "drop" else ["fact_followers_snapshot_2024_01_detached"]
        assert [table.name for table in partitions.detached(conn)] == stay
    assert all_is_derived(bare)


def test_a_partition_stays_until_its_last_day_is_old_enough(bare: Engine) -> None:
    with transaction(bare) as conn:
        partitions.cover(conn, [date(2025, 1, 31)], months=1)
        assert partitions.retire(conn, today=date(2026, 1, 31), months=12, action="drop") == []
        assert len(partitions.retire(conn, today=date(2026, 2, 1), months=12, action="drop")) == 1


def test_days_that_are_imported_again_after_they_were_detached_find_room_and_are_detached_beside(
    bare: Engine,
) -> None:
    with transaction(bare) as conn:
        key = listed(conn, "a")[0]
        for _ in range(3):
            keep(conn, key, date(2015, 3, 3))
            partitions.ensure(conn, today=TODAY)
            partitions.retire(conn, today=TODAY, months=24, action="detach")
        names = [table.name.removeprefix("fact_followers_snapshot_") for table in partitions.detached(conn)]
        assert names == ["2015_01_detached", "2015_01_detached_2", "2015_01_detached_3"]
    assert all_is_derived(bare)


# Cut anew


def _recut(engine: Engine, months: int) -> list[int]:
    years: list[int] = []
    recut.recut(engine, months=months, done=years.append)
    return years


def _rows(engine: Engine) -> list[Any]:
    with reading(engine) as conn:
        return list(conn.execute(text("SELECT * FROM fact_followers_snapshot ORDER BY account_key, snapshot_date")))


@pytest.fixture
def filled(bare: Engine) -> Engine:
    """Two accounts read every tenth day of 2024 and 2025, in partitions of a year."""
    days = [date(2024, 1, 1) + n * 10 * DAY for n in range(73)]
    with transaction(bare) as conn:
        partitions.cover(conn, days, months=12)
        for number, key in enumerate(listed(conn, "a", "b", org_name="Org")):
            keep(conn, key, *days, followers=number)
    return bare


def test_cutting_anew_moves_every_row_and_changes_none(filled: Engine) -> None:
    before = _rows(filled)
    for months, parts in ((1, 24), (3, 8), (2, 12), (12, 2)):
        assert _recut(filled, months) == [2024, 2025]
        with reading(filled) as conn:
            assert len(partitions.listed(conn)) == parts
            assert all(
                day.strftime("%Y_%m") >= name and name != "default" for day, name in partition_of_days(conn).items()
            )
        assert _rows(filled) == before
    assert _recut(filled, 12) == [], "nothing to do"
    assert all_is_derived(filled)


def test_only_part_of_a_year_widens_to_what_the_width_says(bare: Engine) -> None:
    with transaction(bare) as conn:
        partitions.cover(conn, [date(2025, 11, 1), date(2025, 12, 1)], months=1)
        keep(conn, listed(conn, "a")[0], date(2025, 12, 24))
    _recut(bare, 12)
    with transaction(bare) as conn:
        assert _names(conn) == ["2025_01"]
        keep(conn, 1, date(2025, 2, 2))
        assert set(partition_of_days(conn).values()) == {"2025_01"}


def _during_the_copy(engine: Engine, act: Callable[[], None]) -> None:
    """Do something after rows have been copied, before the tables change places."""

    def watch(_conn: Any, _cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("ANALYZE"):
            act()

    event.listen(engine, "before_cursor_execute", watch)


def test_what_is_written_while_rows_are_copied_arrives(filled: Engine) -> None:
    changed = date(2025, 12, 21)

    def write() -> None:
        with transaction(filled) as conn:
            conn.execute(text("UPDATE fact_followers_snapshot SET followers = 77 WHERE snapshot_date = '2024-01-11'"))
            conn.execute(text("DELETE FROM fact_followers_snapshot WHERE snapshot_date = '2024-01-21'"))
            conn.execute(
                text("""
                    INSERT INTO fact_followers_snapshot
                    SELECT account_key, :day, 88, 1, 1, 1, now(), 'live', 'exact' FROM dim_account
                    ON CONFLICT (account_key, snapshot_date) DO UPDATE SET followers = 88
                """),
                {"day": changed + DAY},
            )
        expected.append(_rows(filled))

    expected: list[Any] = []
    _during_the_copy(filled, write)
    _recut(filled, 6)
    assert _rows(filled) == expected[-1]
    followers = {(row.snapshot_date, row.followers) for row in expected[-1]}
    assert {(date(2024, 1, 11), 77), (changed + DAY, 88)} <= followers
    assert date(2024, 1, 21) not in {day for day, _ in followers}


def test_a_cut_that_is_interrupted_loses_nothing_and_leaves_nothing_behind(filled: Engine) -> None:
    before = _rows(filled)

    def interrupt() -> None:
        raise KeyboardInterrupt

    _during_the_copy(filled, interrupt)
    with pytest.raises(KeyboardInterrupt):
        _recut(filled, 1)
    assert _rows(filled) == before
    with reading(filled) as conn:
        assert conn.scalar(text("SELECT count(*) FROM pg_class WHERE relname LIKE '%recut%'")) == 0
        assert conn.scalar(text("SELECT count(*) FROM pg_trigger WHERE tgname = 'recut'")) == 0


def test_what_a_killed_cut_leaves_is_cleared_by_the_next(filled: Engine) -> None:
    with reading(filled) as conn:
        old = partitions.listed(conn)[:1]
    with transaction(filled) as conn:
        recut._prepare(conn, old, [(date(2024, 1, 1), date(2025, 1, 1))])
    before = _rows(filled)
    assert _recut(filled, 6) == [2024, 2025]
    assert _rows(filled) == before
    with reading(filled) as conn:
        assert conn.scalar(text("SELECT count(*) FROM pg_class WHERE relname LIKE '%recut%'")) == 0


def test_a_partition_that_goes_away_while_it_is_copied_stops_the_cut(filled: Engine) -> None:
    def retire() -> None:
        with transaction(filled) as conn:
            partitions.retire(conn, today=date(2026, 1, 1), months=12, action="detach")

    _during_the_copy(filled, retire)
    with pytest.raises(recut.Changed, match="2024"):
        _recut(filled, 1)
    with reading(filled) as conn:
        assert _names(conn) == ["2025_01"]
    assert all_is_derived(filled)


def test_of_two_that_cut_at_once_the_second_is_told(filled: Engine) -> None:
    with pytest.raises(recut.Underway):
        recut.recut(filled, months=6, done=lambda _: _recut(filled, 1) and None)


def test_jobs_are_saved_and_people_read_while_rows_are_copied(bare: Engine) -> None:
    with transaction(bare) as conn:
        partitions.ensure(conn, today=TODAY)
        key = listed(conn, "a")[0]
    done = threading.Event()

    def work() -> None:
        with transaction(bare) as conn:
            job = requested(conn, [key])
            assert saved(conn, job, said(job, 4_711)) is not None
        with reading(bare) as conn:
            assert conn.scalar(text("SELECT followers FROM fact_followers_snapshot")) == 4_711
        done.set()

    def beside() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(work).result(10)

    _during_the_copy(bare, beside)
    _recut(bare, 1)
    assert done.is_set()
    with reading(bare) as conn:
        assert partition_of_days(conn) == {TODAY: f"{TODAY:%Y_%m}"}
    assert all_is_derived(bare)
