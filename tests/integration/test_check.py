"""The comparison of what is kept beside the snapshots with what they say, and the repair."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import text

from db import accounts, check, derived, writes
from db.accounts import Facts
from db.engine import Engine, transaction
from pipeline.cli import main
from tests.fakes import NOON
from tests.history import all_is_derived, counts, keep
from tests.jobs import listed, requested, said, saved, until_one_waits_for_a_lock

TODAY = NOON.date()
DAY = timedelta(days=1)


@pytest.fixture
def filled(engine: Engine) -> Iterator[Engine]:
    """Three accounts of two organisations with four days each, all as it should be."""
    with transaction(engine) as conn:
        keys = listed(conn, "a", "b", org_name="First") + listed(conn, "c", platform="bluesky", org_name="Second")
        for key in keys:
            keep(conn, key, *(TODAY - n * DAY for n in (0, 1, 7, 30)), followers=key)
    assert all_is_derived(engine)
    yield engine


WRONGS = {
    "a delta": (
        "UPDATE account_latest SET delta_7d = 9 WHERE account_key = 1",
        [("newest delta_7d", "x/a", 9, 0)],
    ),
    "a number": (
        "UPDATE fact_followers_snapshot SET followers = 8 WHERE account_key = 2 AND snapshot_date = '2026-03-02'",
        [("newest followers", "x/b", 2, 8), *((f"newest delta_{n}d", "x/b", 0, 6) for n in (1, 7, 30))],
    ),
    "no newest numbers": (
        "DELETE FROM account_latest WHERE account_key = 3",
        [("newest numbers", "bluesky/c", None, "2026-03-02")],
    ),
    "newest numbers of nothing": (
        "DELETE FROM fact_followers_snapshot WHERE account_key = 3; DELETE FROM day_count",
        [("newest numbers", "bluesky/c", "2026-03-02", None)],
    ),
    "a held reading that a newer one has settled": (
        "UPDATE account_latest SET held_followers = 1, held_at = '2026-02-27', held_precision = 'exact' "
        "WHERE account_key = 1",
        [
            ("newest held_followers", "x/a", 1, None),
            ("newest held_at", "x/a", "2026-02-27T00:00:00+00:00", None),
            ("newest held_precision", "x/a", "exact", None),
        ],
    ),
    "a count": (
        "UPDATE day_count SET snapshots = 7 WHERE platform = 'x' AND snapshot_date = '2026-03-01'",
        [("snapshots of a day", "2026-03-01 x", 7, 2)],
    ),
    "no count": (
        "DELETE FROM day_count WHERE org_name = 'First' AND snapshot_date = '2026-03-01'",
        [("snapshots of a day", "2026-03-01 First", None, 2)],
    ),
    "a count of nothing": (
        "INSERT INTO day_count (platform, snapshot_date, snapshots) VALUES ('x', '2020-01-01', 1)",
        [("snapshots of a day", "2020-01-01 x", 1, None)],
    ),
    "snapshots of no account": (
        "INSERT INTO fact_followers_snapshot VALUES (99, '2026-03-01', 1, 1, 1, 1, now(), 'live', 'exact')",
        [("snapshots of no account", "account_key 99", 1, None)],
    ),
}


@pytest.mark.parametrize("wrong", WRONGS)
def test_what_is_wrong_is_named_and_mended(filled: Engine, wrong: str) -> None:
    statements, expected = WRONGS[wrong]
    with transaction(filled) as conn:
        conn.execute(text(statements))
    with transaction(filled) as conn:
        named = [(found.what, found.where, found.stored, found.true) for found in check.differences(conn)]
    assert [found for found in named if found in expected] == expected
    assert len(named) == len(expected) or "DELETE FROM day_count;" in statements + ";"
    with transaction(filled) as conn:
        repaired = check.repair(conn)
    assert [(found.what, found.where, found.stored, found.true) for found in repaired] == named
    assert all_is_derived(filled)


def test_a_repair_of_what_is_right_writes_nothing(filled: Engine) -> None:
    written_by = text("SELECT xmin::text FROM account_latest UNION SELECT xmin::text FROM day_count")
    with transaction(filled) as conn:
        before = set(conn.scalars(written_by))
        assert check.repair(conn) == []
        assert set(conn.scalars(written_by)) == before


def test_a_save_beside_the_comparison_is_no_difference(filled: Engine) -> None:
    with transaction(filled) as conn:
        check.one_moment(conn)
        found = check.differences(conn)
        conn.execute(text("SELECT 1"))  # the moment
        with transaction(filled) as other:
            job = requested(other, [1], now=NOON + DAY)
            saved(other, job, said(job, 5), now=NOON + DAY)
        assert list(found) == []


def test_a_save_waits_for_a_repair_and_is_right_after_it(filled: Engine) -> None:
    def save() -> None:
        with transaction(filled) as conn:
            job = requested(conn, [1], now=NOON + DAY)
            saved(conn, job, said(job, 5), now=NOON + DAY)

    with ThreadPoolExecutor(1) as pool, transaction(filled) as conn:
        derived.alone(conn)
        saving = pool.submit(save)
        until_one_waits_for_a_lock(filled)
        conn.execute(text("UPDATE day_count SET snapshots = 7"))
        check.repair(conn)
        conn.commit()
        saving.result(10)
    assert all_is_derived(filled)


def test_an_account_that_moves_to_another_organisation_takes_its_days_along(filled: Engine) -> None:
    with transaction(filled) as conn:
        accounts.change(conn, {1: Facts(org_name="Third"), 3: Facts()}, now=NOON)
        found = {(org, day): n for (_, org, day), n in counts(conn).items() if org}
        days = [TODAY - n * DAY for n in (0, 1, 7, 30)]
        assert found == {(org, day): 1 for org in ("First", "Third") for day in days}
    assert all_is_derived(filled)


def test_a_reading_that_is_saved_while_its_account_moves_counts_for_the_new_organisation(filled: Engine) -> None:
    def save() -> None:
        with transaction(filled) as conn:
            job = requested(conn, [1], now=NOON + DAY)
            saved(conn, job, said(job, 5), now=NOON + DAY)

    with ThreadPoolExecutor(1) as pool, transaction(filled) as conn:
        accounts.change(conn, {1: Facts(org_name="Third")}, now=NOON)
        saving = pool.submit(save)
        until_one_waits_for_a_lock(filled)
        conn.commit()
        saving.result(10)
    assert all_is_derived(filled)


def test_what_was_imported_stays_and_counts_when_the_demo_is_cleared(filled: Engine) -> None:
    with transaction(filled) as conn:
        job = requested(conn, [1], now=NOON + DAY)
        saved(conn, job, said(job, 5), now=NOON + DAY)
        writes.clear_simulated(conn, resolving=[])
        newest = conn.execute(text("SELECT snapshot_date FROM account_latest WHERE account_key = 1")).scalar()
    assert newest == TODAY
    assert all_is_derived(filled)


@pytest.fixture
def run(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("REDIS_URL", redis_url)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, ["db", *arguments])

    return run


def test_the_command_names_differences_and_fails_until_they_are_mended(filled: Engine, run: Any) -> None:
    assert run("check").exit_code == 0
    with transaction(filled) as conn:
        conn.execute(text("UPDATE account_latest SET delta_1d = 3 WHERE account_key = 1"))
    said = run("check")
    assert (said.exit_code, said.stdout) == (1, "newest delta_1d\tx/a\t3\t0\n")
    assert "--repair" in said.stderr
    assert json.loads(run("check", "--json").stdout) == {
        "differences": [{"what": "newest delta_1d", "where": "x/a", "stored": 3, "true": 0}],
        "repaired": False,
    }
    assert run("check", "--repair").exit_code == 0
    assert run("check").exit_code == 0


def test_the_partitions_are_listed_and_cut_from_the_command_line(
    filled: Engine, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITION_MONTHS", "6")
    assert run("partitions", "--recut").exit_code == 0
    listed = json.loads(run("partitions", "--json").stdout)
    assert {(part["first"][5:], part["after"][5:]) for part in listed["partitions"]} == {
        ("01-01", "07-01"),
        ("07-01", "01-01"),
    }
    monkeypatch.setenv("PARTITION_MONTHS", "5")
    refused = run("partitions")
    assert (refused.exit_code, "PARTITION_MONTHS" in refused.stderr) == (2, True)
    assert all_is_derived(filled)


def test_old_partitions_are_taken_out_from_the_command_line(
    engine: Engine, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "a")[0], TODAY.replace(year=2015))
    monkeypatch.setenv("RETENTION_MONTHS", "24")
    answer = json.loads(run("partitions", "--json").stdout)
    assert answer["retired"] == [table["name"] for table in answer["detached"]]
    assert answer["retired"] == ["fact_followers_snapshot_2015_01_detached"]


def test_a_late_import_beside_a_held_reading_leaves_it_waiting(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        for days, followers in ((0, 5_000), (2, 0)):
            job = requested(conn, [key], now=NOON + days * DAY)
            saved(conn, job, said(job, followers), now=NOON + days * DAY)
        keep(conn, key, TODAY + DAY, followers=5_001)
        row = conn.execute(text("SELECT * FROM account_latest")).one()
        assert (row.followers, row.delta_1d, row.held_followers, row.held_at) == (5_001, 1, 0, NOON + 2 * DAY)
        keep(conn, key, TODAY + 3 * DAY, followers=5_002)
        row = conn.execute(text("SELECT * FROM account_latest")).one()
        assert (row.followers, row.held_at) == (5_002, None)
    assert all_is_derived(engine)
