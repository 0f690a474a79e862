"""The schema that migrations make, and the partitions of the snapshots."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from db import migrate, partitions
from db.engine import Connection, DatabaseError, Engine, reading, transaction
from db.models import metadata


@pytest.fixture
def blank(engine: Engine) -> Iterator[Engine]:
    """Return an engine on a database without any table."""
    with transaction(engine) as conn:
        conn.execute(text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
    yield engine


def _partitions(conn: Connection) -> dict[str, str]:
    found = conn.execute(
        text("""
            SELECT relname, pg_get_expr(relpartbound, oid) FROM pg_class
            WHERE relispartition AND relkind = 'r' ORDER BY relname
        """)
    )
    return {name.removeprefix("fact_followers_snapshot_"): bounds for name, bounds in found}


def _snapshot(conn: Connection, day: date, key: int = 1) -> None:
    conn.execute(
        text("""
            INSERT INTO fact_followers_snapshot (account_key, snapshot_date, followers, captured_at, source, precision)
            VALUES (:key, :day, 5, now(), 'live', 'exact')
        """),
        {"key": key, "day": day},
    )


def test_the_migrated_schema_is_what_the_models_say(engine: Engine) -> None:
    def is_no_partition(name: str | None, kind: str, _parents: object) -> bool:
        return not (kind == "table" and name is not None and name.startswith("fact_followers_snapshot_"))

    with reading(engine) as conn:
        options = {"compare_server_default": True, "include_name": is_no_partition}
        assert compare_metadata(MigrationContext.configure(conn, opts=options), metadata) == []


def test_a_database_is_current_only_once_it_is_migrated(blank: Engine, database_url: str) -> None:
    assert not migrate.is_current(blank)
    migrate.upgrade(database_url)
    assert migrate.is_current(blank)


def test_two_starts_at_once_migrate_once(blank: Engine, database_url: str) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(migrate.upgrade, [database_url] * 3))
    assert migrate.is_current(blank)


def test_migrating_leaves_the_logging_configuration_alone(blank: Engine, database_url: str) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("alembic").level)
    migrate.upgrade(database_url)
    assert (root.level, list(root.handlers), logging.getLogger("alembic").level) == before


def test_migrating_makes_room_for_this_year_and_the_next(engine: Engine) -> None:
    year = datetime.now(UTC).year
    with reading(engine) as conn:
        assert [*_partitions(conn)] == [f"{year}_01", f"{year + 1}_01", "default"]


@pytest.mark.parametrize(
    ("months", "made"),
    [(12, ["2031_01", "2032_01"]), (3, ["2031_10", "2032_01"]), (1, ["2031_12", "2032_01"])],
)
def test_partitions_are_aligned_to_their_width(engine: Engine, months: int, made: list[str]) -> None:
    with transaction(engine) as conn:
        names = partitions.ensure(conn, today=date(2031, 12, 31), months=months)
        assert [name.removeprefix("fact_followers_snapshot_") for name in names] == made
        assert partitions.ensure(conn, today=date(2031, 12, 31), months=months) == []


def test_a_width_that_changes_never_overlaps(engine: Engine) -> None:
    with transaction(engine) as conn:
        partitions.ensure(conn, today=date(2031, 11, 5), months=1)
        assert partitions.ensure(conn, today=date(2031, 11, 5), months=12) == ["fact_followers_snapshot_2032_01"]


def test_partitions_made_twice_at_once_are_made_once(engine: Engine) -> None:
    def make(_: int) -> list[str]:
        with transaction(engine) as conn:
            return partitions.ensure(conn, today=date(2040, 6, 1))

    with ThreadPoolExecutor(3) as pool:
        assert sorted(map(len, pool.map(make, range(3)))) == [0, 0, 2]


def test_a_row_of_any_day_finds_room_and_moves_to_its_partition_later(engine: Engine) -> None:
    with transaction(engine) as conn:
        _snapshot(conn, date(2050, 7, 1))
        _snapshot(conn, date(1999, 1, 1))
    with transaction(engine) as conn:
        partitions.ensure(conn, today=date(2050, 3, 1))
        _snapshot(conn, date(2050, 7, 2))
    with reading(engine) as conn:
        found = conn.execute(text("SELECT snapshot_date, tableoid::regclass::text FROM fact_followers_snapshot"))
        where = {day: partition for day, partition in found}  # noqa: C416  # rows, no pairs
    assert where == {
        date(2050, 7, 1): "fact_followers_snapshot_2050_01",
        date(2050, 7, 2): "fact_followers_snapshot_2050_01",
        date(1999, 1, 1): "fact_followers_snapshot_default",
    }


def test_a_partition_refuses_a_second_row_of_an_account_and_day(engine: Engine) -> None:
    with pytest.raises(DatabaseError, match="duplicate key"), transaction(engine) as conn:
        partitions.ensure(conn, today=date(2060, 1, 1))
        _snapshot(conn, date(2060, 1, 1))
        _snapshot(conn, date(2060, 1, 1))
