"""Whole results as files: of one moment, in flat memory, and back again without loss."""

import csv
import io
import json
import os
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from click.testing import Result
from pyarrow import parquet
from sqlalchemy import text

from db import bulk, partitions
from db.engine import Connection, Engine, reading, transaction
from db.reads import AccountStanding, AccountSummary
from tests.commands import peak_rss_bytes
from tests.fakes import NOON
from tests.history import all_is_derived, keep, snapshot
from tests.jobs import listed, requested, said, saved

TODAY = NOON.date()
DAY = timedelta(days=1)
DAYS = 400


@pytest.fixture
def birds(engine: Engine) -> dict[str, int]:
    """List accounts of two platforms; return their keys."""
    with transaction(engine) as conn:
        goose, duck = listed(conn, "goose", "duck", org_name="=Birds", is_core_account=True)
        (swan,) = listed(conn, "swan", platform="mastodon", host="pond.example", org_name="Ponds")
    return {"goose": goose, "duck": duck, "swan": swan}


@pytest.fixture
def filled(engine: Engine, birds: Mapping[str, int]) -> Mapping[str, int]:
    """Keep every sort of number: imported, said, held, hidden, unknown, of several years."""
    with transaction(engine) as conn:
        keep(conn, birds["goose"], *(TODAY - n * DAY for n in range(1, DAYS)), followers=5_000)
        bulk.upsert_snapshots(
            conn,
            [
                snapshot(birds["duck"], TODAY, None, following=0, posts=2**62, precision="rounded", captured_at=NOON),
                snapshot(birds["duck"], TODAY - DAY, None, precision="hidden"),
                snapshot(birds["swan"], date(2015, 3, 1), 7, engagement=3),
            ],
        )
        job = requested(conn, [birds["goose"]])
        saved(conn, job, said(job, 5))  # after thousands: held
    return birds


def facts(engine: Engine) -> list[tuple]:
    """Return all that an export of the history says, and may say."""
    with reading(engine) as conn:
        rows = conn.execute(
            text("""
                SELECT handle, snapshot_date, CASE WHEN precision <> 'held' THEN followers END, following, posts,
                    engagement, captured_at, precision
                FROM fact_followers_snapshot JOIN dim_account USING (account_key) ORDER BY 1, 2
            """)
        )
        return [tuple(row) for row in rows]


def csv_rows(result: Result) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.stdout_bytes.decode(), newline="")))


def test_history_comes_account_by_account_oldest_day_first_and_held_numbers_are_unknown(filled, rollcall):
    rows = csv_rows(rollcall("export", "history"))
    assert list(rows[0]) == [
        *("account_key", "platform", "handle", "org_name", "snapshot_date", "followers", "following", "posts"),
        *("engagement", "captured_at", "source", "precision"),
    ]
    keys = [(int(row["account_key"]), row["snapshot_date"]) for row in rows]
    assert keys == sorted(keys)
    assert len(rows) == DAYS + 3
    (held,) = [row for row in rows if row["precision"] == "held"]
    assert (held["snapshot_date"], held["followers"], held["source"]) == (str(TODAY), "", "simulated")
    (rounded,) = [row for row in rows if row["precision"] == "rounded"]
    assert rounded["captured_at"] == "2026-03-02T12:00:00Z"
    assert (rounded["followers"], rounded["following"], rounded["posts"]) == ("", "0", str(2**62))
    assert rounded["org_name"] == "'=Birds"  # a spreadsheet shows it rather than runs it


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_what_was_exported_comes_back_without_loss(engine, filled, rollcall, tmp_path, kind):
    with transaction(engine) as conn:
        # What a platform said; simulated numbers don't become history.
        conn.execute(text("UPDATE fact_followers_snapshot SET source = 'live' WHERE source = 'simulated'"))
    before = facts(engine)
    file = f"history.{kind}"
    assert rollcall("export", "history", "-o", file).exit_code == 0
    with transaction(engine) as conn:
        conn.execute(text("TRUNCATE fact_followers_snapshot, account_latest, day_count"))
    result = rollcall("history", "import", file)
    assert (result.exit_code, "left out" in result.stderr) == (0, False)
    assert not (tmp_path / f"{file}.rejects.csv").exists()
    assert facts(engine) == before
    with reading(engine) as conn:
        assert set(conn.scalars(text("SELECT source FROM fact_followers_snapshot"))) == {"imported"}
    assert all_is_derived(engine)


@pytest.mark.parametrize(
    ("arguments", "handles", "first", "last", "count"),
    [
        (("--platform", "Mastodon"), {"swan@pond.example"}, "2015-03-01", "2015-03-01", 1),
        (("--org", "=Birds", "--from", "2026-03-01"), {"goose", "duck"}, "2026-03-01", "2026-03-02", 4),
        (("--core", "--to", "2025-01-31"), {"goose"}, "2025-01-27", "2025-01-31", 5),
        (("--not-core",), {"swan@pond.example"}, "2015-03-01", "2015-03-01", 1),
        (("--account", "x/duck", "--account", "mastodon/swan@pond.example"), {"duck", "swan@pond.example"}, "2015-03-01", "2026-03-02", 3),
        (("--account", "x/goose", "--from", "2026-02-01", "--to", "2026-02-01"), {"goose"}, "2026-02-01", "2026-02-01", 1),
    ],
)  # fmt: skip
def test_filters_narrow_the_history_down_both_ends_included(filled, rollcall, arguments, handles, first, last, count):
    rows = csv_rows(rollcall("export", "history", *arguments))
    days = [row["snapshot_date"] for row in rows]
    assert ({row["handle"] for row in rows}, min(days), max(days), len(rows)) == (handles, first, last, count)


def test_summary_and_accounts_are_exported_as_the_api_shows_them(filled, rollcall):
    summary = [json.loads(line) for line in rollcall("export", "summary", "--format", "jsonl").stdout.splitlines()]
    assert [tuple(row) for row in summary] == [AccountSummary.__struct_fields__] * 3
    assert [row["followers"] for row in summary] == [5_000, None, 7]
    assert summary[0]["org_name"] == "=Birds"
    accounts = csv_rows(rollcall("export", "accounts", "--platform", "x"))
    assert [row["handle"] for row in accounts] == ["goose", "duck"]
    assert tuple(accounts[0]) == AccountStanding.__struct_fields__
    assert (accounts[0]["is_core_account"], accounts[1]["status"]) == ("true", "never")


def test_more_accounts_than_a_page_are_all_exported_once(engine, rollcall, monkeypatch):
    monkeypatch.setattr("db.exports._PAGE", 7)
    with transaction(engine) as conn:
        keys = listed(conn, *(f"bird{n}" for n in range(21)))
    assert [int(row["account_key"]) for row in csv_rows(rollcall("export", "summary"))] == keys


def test_posts_are_exported_newest_first_by_their_day_of_publication(engine, birds, rollcall):
    with transaction(engine) as conn:
        for number, at in enumerate(("2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z")):
            conn.execute(
                text("""
                    INSERT INTO fact_social_post (account_key, post_id, url, published_at, post_type, text, likes, read_at, source)
                    VALUES (:key, :id, 'https://x.example', :at, 'text', :said, 0, now(), 'live')
                """),
                {"key": birds["goose"], "id": f"p{number}", "at": at, "said": '+1 "for"\r\nthe geese'},
            )
    rows = csv_rows(rollcall("export", "posts"))
    assert [row["post_id"] for row in rows] == ["p2", "p1", "p0"]
    assert (rows[0]["text"], rows[0]["likes"], rows[0]["shares"]) == ('\'+1 "for"\r\nthe geese', "0", "")
    rows = csv_rows(rollcall("export", "posts", "--from", "2026-03-01", "--to", "2026-03-01"))
    assert [row["post_id"] for row in rows] == ["p1"]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet", "xlsx"])
def test_the_file_s_name_says_the_format(filled, rollcall, tmp_path, kind):
    result = rollcall("export", "history", "-o", f"out.{kind}")
    assert (result.exit_code, result.stdout, "403 rows." in result.stderr) == (0, "", True)
    raw = (tmp_path / f"out.{kind}").read_bytes()
    assert raw.startswith(
        {"csv": b"account_key,", "jsonl": b'{"account_key":', "parquet": b"PAR1", "xlsx": b"PK"}[kind]
    )
    if kind == "parquet":
        assert parquet.read_table(io.BytesIO(raw)).schema.field("followers").type == pyarrow.int64()


def test_what_the_retention_took_out_can_be_exported_and_no_other_table(engine, filled, rollcall):
    with transaction(engine) as conn:
        partitions.cover(conn, [date(2015, 3, 1)])
        (name,) = partitions.retire(conn, today=TODAY, months=36, action="detach")
    assert [row["snapshot_date"] for row in csv_rows(rollcall("export", "history"))][-1] != "2015-03-01"
    (row,) = csv_rows(rollcall("export", "history", "--table", name))
    assert (row["handle"], row["snapshot_date"], row["followers"]) == ("swan@pond.example", "2015-03-01", "7")
    for other in ("api_key", "fact_followers_snapshot_2026_01", 'x"; DROP TABLE dim_account; --'):
        result = rollcall("export", "history", "--table", other)
        assert (result.exit_code, f"known are {name}" in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "code", "said_so"),
    [
        (("--from", "2026-03-02", "--to", "2026-03-01"), 2, "--from is after --to"),
        (("--from", "01.03.2026"), 2, "does not match the format"),
        (("--account", "x/gosse"), 2, "Did you mean x/goose?"),
        (("--platform", "xx"), 2, "is not a platform"),
        (("--table", "api_key"), 2, "there is none"),
        (("--format", "xml"), 2, "is not one of"),
        (("-o", "nowhere/out.csv"), 1, "No such file or directory"),
        (("-o", "."), 1, ""),
    ],
)
def test_wrong_use_is_told_and_leaves_no_file(birds, rollcall, tmp_path, arguments, code, said_so):
    result = rollcall("export", "history", *arguments)
    assert (result.exit_code, said_so in result.stderr) == (code, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_half_file_takes_the_place_of_a_whole_one(filled, rollcall, tmp_path, monkeypatch):
    (tmp_path / "out.csv").write_text("whole")

    def broken(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    result = rollcall("export", "history", "-o", "out.csv")
    assert (result.exit_code, "No space left" in result.stderr) == (1, True)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.csv", "whole")]


def test_a_link_stays_a_link_and_a_device_a_device(filled, rollcall, tmp_path):
    (tmp_path / "real.csv").write_text("old")
    (tmp_path / "link.csv").symlink_to("real.csv")
    assert rollcall("export", "history", "-o", "link.csv").exit_code == 0
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().startswith("account_key,")
    assert rollcall("export", "history", "-o", "/dev/null").exit_code == 0
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_history(engine, environ, tmp_path, kind):
    peaks = []
    for number, days in enumerate((600, 2_000)):
        with transaction(engine) as conn:
            many(conn, listed(conn, *(f"bird{number}-{n}" for n in range(100))), days)
        peaks.append(peak_rss_bytes(["export", "history", "--format", kind], environ, tmp_path))
    assert peaks[1] - peaks[0] < 20 * 2**20, peaks


def many(conn: Connection, keys: list[int], days: int) -> None:
    """Keep that many days of these accounts, without what follows from them."""
    conn.execute(
        text("""
            INSERT INTO fact_followers_snapshot
                (account_key, snapshot_date, followers, following, posts, captured_at, source, precision)
            SELECT key, DATE '2026-03-02' - n, n, n, n, now(), 'live', 'exact'
            FROM unnest(CAST(:keys AS bigint[])) AS key, generate_series(1, :days) AS n
        """),
        {"keys": keys, "days": days},
    )
