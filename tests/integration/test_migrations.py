"""The schema that migrations make, up and down."""

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from db import migrate
from db.engine import Connection, Engine, reading, transaction
from db.models import fact_followers_snapshot, metadata
from tests.fakes import NOON
from tests.history import all_is_derived, counts, keep
from tests.jobs import listed, requested, said, saved

DAY = timedelta(days=1)


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


def _context(conn: Connection) -> MigrationContext:
    def is_no_partition(name: str | None, kind: str, _parents: object) -> bool:
        return not (kind == "table" and name is not None and name.startswith("fact_followers_snapshot_"))

    return MigrationContext.configure(conn, opts={"compare_server_default": True, "include_name": is_no_partition})


def test_the_migrated_schema_is_what_the_models_say(engine: Engine) -> None:
    with reading(engine) as conn:
        assert compare_metadata(_context(conn), metadata) == []


@pytest.mark.parametrize("name", ["account_latest", "day_count"])
def test_tables_that_every_reading_touches_leave_room_and_are_vacuumed_soon(engine: Engine, name: str) -> None:
    wanted = [
        f"{option}={value}" for option, value in metadata.tables[name].dialect_options["postgresql"]["with"].items()
    ]
    with reading(engine) as conn:
        assert conn.scalar(text("SELECT reloptions FROM pg_class WHERE relname = :name"), {"name": name}) == wanted


def test_partitions_leave_room_for_the_second_writing_of_the_day(engine: Engine) -> None:
    with reading(engine) as conn:
        options = conn.scalars(
            text("SELECT DISTINCT reloptions FROM pg_class WHERE relispartition AND relkind = 'r'")
        )
        assert list(options) == [["fillfactor=90"]]


def test_a_database_is_current_only_once_it_is_migrated(blank: Engine, database_url: str) -> None:
    assert not migrate.is_current(blank) and not migrate.is_newer(blank)
    migrate.upgrade(database_url)
    assert migrate.is_current(blank)


def test_a_schema_of_a_newer_rollcall_is_left_as_it_is(engine: Engine, database_url: str) -> None:
    with transaction(engine) as conn:
        conn.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(migrate.Newer, match="revision 9999"):
        migrate.upgrade(database_url)
    assert migrate.is_newer(engine) and not migrate.is_current(engine)


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


def test_a_filled_database_goes_down_and_up_again_and_keeps_its_snapshots(engine: Engine, database_url: str) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", org_name="Org") + listed(conn, "c", platform="bluesky")
        for key in keys:
            keep(conn, key, *(NOON.date() - n * DAY for n in (0, 1, 400)))
        job = requested(conn, keys[:1])
        assert saved(conn, job, said(job, 5_000)) is not None
        kept = _rows(conn)
    for revision in ("0003", "0002", "0001"):
        with transaction(engine) as conn:
            command.downgrade(migrate._config(conn), revision)
            assert _rows(conn) == kept
            assert {(row.platform, row.snapshots) for row in conn.execute(text("SELECT * FROM day_count"))} == {
                ("x", 2),
                ("bluesky", 1),
            }
    migrate.upgrade(database_url)
    with transaction(engine) as conn:
        assert _rows(conn) == kept
        assert counts(conn)["", "Org", NOON.date() - DAY] == 2
        assert compare_metadata(_context(conn), metadata) == []
    assert all_is_derived(engine)


def _rows(conn: Connection) -> list[Any]:
    """Return what every revision holds of the snapshots."""
    columns = ", ".join(column.name for column in fact_followers_snapshot.c if column.name != "import_id")
    return list(
        conn.execute(text(f"SELECT {columns} FROM fact_followers_snapshot ORDER BY account_key, snapshot_date"))
    )
