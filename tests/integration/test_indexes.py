"""The indexes that the models declare: shown as they stand, and made while others write."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Index, text

from db import indexes
from db.engine import Connection, DatabaseError, Engine, reading, transaction
from db.models import annotation, fact_followers_snapshot
from pipeline.cli import main
from tests.fakes import NOON
from tests.history import keep
from tests.jobs import listed, until_one_waits_for_a_lock


def _states(conn: Connection, *wanted: Index) -> dict[str, str]:
    return {index.name: index.state for index in indexes.standing(conn, wanted or None)}


def _create(engine: Engine, *wanted: Index) -> list[str]:
    return indexes.create_missing(engine, started=lambda _: None, indexes=wanted or None)


@pytest.fixture
def by_day() -> Iterator[Index]:
    """An index over all partitions, as a table of days might need one."""
    columns = fact_followers_snapshot.c
    index = Index(
        "ix_by_day", columns.snapshot_date.desc(), columns.account_key, postgresql_where=columns.followers > 0
    )
    yield index
    fact_followers_snapshot.indexes.discard(index)


def test_a_migrated_database_has_every_index_that_is_declared(engine: Engine) -> None:
    with reading(engine) as conn:
        states = _states(conn)
        assert all(index.size_bytes for index in indexes.standing(conn))
    assert set(states.values()) == {"present"}
    assert "ix_scrape_job_open" in states
    assert _create(engine) == []


def test_a_missing_index_is_made_as_the_migration_makes_it(engine: Engine) -> None:
    # Those of partitions have other names then.
    definitions = text("""
        SELECT tablename, replace(indexdef, indexname, '') FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1, 2
    """)
    with transaction(engine) as conn:
        before = conn.execute(definitions).all()
        for index in indexes.declared():
            conn.execute(text(f"DROP INDEX {index.name}"))
        assert set(_states(conn).values()) == {"missing"}
    assert _create(engine) == [index.name for index in indexes.declared()]
    with reading(engine) as conn:
        assert conn.execute(definitions).all() == before


def test_an_index_of_a_partitioned_table_is_made_on_every_partition_and_on_later_ones(
    engine: Engine, by_day: Index
) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "a")[0], NOON.date())
    assert _create(engine, by_day) == ["ix_by_day"]
    with transaction(engine) as conn:
        assert _states(conn, by_day) == {"ix_by_day": "present"}
        conn.execute(
            text("""
                CREATE TABLE later PARTITION OF fact_followers_snapshot FOR VALUES FROM ('2070-01-01') TO ('2071-01-01')
            """)
        )
        tables, having = conn.execute(
            text("""
                SELECT count(DISTINCT inhrelid), count(DISTINCT indrelid)
                FROM pg_inherits LEFT JOIN pg_index
                    ON indrelid = inhrelid AND pg_get_indexdef(indexrelid) LIKE '%snapshot_date DESC%' AND indisvalid
                WHERE inhparent = 'fact_followers_snapshot'::regclass
            """)
        ).one()
        assert tables == having > 2


def test_what_an_interrupted_build_leaves_is_invalid_and_made_anew(engine: Engine, by_day: Index) -> None:
    unique = Index("ix_annotation_unique", annotation.c.note, unique=True)
    insert = text("INSERT INTO annotation (from_date, to_date, note, created_by) VALUES (now(), now(), 'same', 'x')")
    try:
        with transaction(engine) as conn:
            for _ in range(2):
                conn.execute(insert)
        with pytest.raises(DatabaseError, match="could not create unique index"):
            _create(engine, unique)
        with transaction(engine) as conn:
            assert _states(conn, unique) == {"ix_annotation_unique": "invalid"}
            assert _states(conn, by_day)["ix_annotation_unique"] == "invalid", "a stray one is shown, too"
            conn.execute(text("DELETE FROM annotation"))
        assert _create(engine, unique) == ["ix_annotation_unique"]
        with reading(engine) as conn:
            assert _states(conn, unique) == {"ix_annotation_unique": "present"}
    finally:
        annotation.indexes.discard(unique)


def test_a_build_that_stops_between_partitions_goes_on_where_it_stopped(engine: Engine, by_day: Index) -> None:
    with transaction(engine) as conn:
        conn.execute(
            text("""
                CREATE INDEX ix_by_day ON ONLY fact_followers_snapshot (snapshot_date DESC, account_key)
                WHERE followers > 0
            """)
        )
        assert _states(conn, by_day) == {"ix_by_day": "invalid"}
    assert _create(engine, by_day) == ["ix_by_day"]
    with reading(engine) as conn:
        assert _states(conn, by_day) == {"ix_by_day": "present"}


def test_writers_go_on_while_an_index_is_made(engine: Engine) -> None:
    """It waits for the transactions that were open when it began; whoever comes then writes."""
    with transaction(engine) as conn:
        conn.execute(text("DROP INDEX ix_annotation_org_name"))
    with ThreadPoolExecutor(1) as pool, transaction(engine) as held:
        held.execute(
            text("INSERT INTO annotation (from_date, to_date, note, created_by) VALUES (now(), now(), 'a', 'x')")
        )
        making = pool.submit(_create, engine)
        until_one_waits_for_a_lock(engine)
        with transaction(engine) as other:
            other.execute(text("SET lock_timeout = '1s'"))
            other.execute(text("UPDATE annotation SET note = 'b'"))
        held.commit()
        assert making.result(10) == ["ix_annotation_org_name"]


def test_the_command_fails_while_one_is_missing_and_makes_it(
    engine: Engine, database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*options: str) -> Any:
        return CliRunner().invoke(main, ["db", "indexes", *options])

    with transaction(engine) as conn:
        conn.execute(text("DROP INDEX ix_annotation_org_name"))
    said = run()
    assert (said.exit_code, "ix_annotation_org_name\tannotation\tmissing" in said.stdout) == (1, True)
    assert "--create" in said.stderr
    made = run("--create", "--json")
    assert made.exit_code == 0
    assert {index["state"] for index in json.loads(made.stdout)} == {"present"}
