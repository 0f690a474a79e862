"""Whole results over HTTP: every format, of one moment, at the client's pace, and never a part that looks whole."""

import csv
import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import brotli
import pytest
import zstandard
from pyarrow import parquet
from sqlalchemy import text

from db import grid
from db.engine import Engine, reading, transaction
from db.exports import ExportedPost
from db.grid import Cell
from db.keyset import Order, Window
from db.reads import AccountStanding, AccountSummary
from pipeline import formats
from tests import fakes, history
from tests.serving import InProcess, add_account, days_ago, in_process, keep

KINDS = {"summary": AccountSummary, "grid": Cell, "accounts": AccountStanding, "posts": ExportedPost}
MEDIA_TYPES = {
    "csv": "text/csv; charset=utf-8",
    "ndjson": "application/x-ndjson",
    "json": "application/json",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "parquet": "application/vnd.apache.parquet",
}
OPEN = """
    SELECT count(*) FROM pg_stat_activity
    WHERE application_name = 'rollcall export' AND xact_start IS NOT NULL AND datname = current_database()
"""
DECODE = {
    "identity": bytes,
    "gzip": gzip.decompress,
    "br": brotli.decompress,
    "zstd": lambda body: zstandard.ZstdDecompressor().decompressobj().decompress(body),
}


@pytest.fixture
def api(database_url: str, redis_url: str, tmp_path: Path) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url, EXPORT_FOLDER=str(tmp_path))) as api:
        yield api


@pytest.fixture
def filled(engine: Engine) -> Mapping[str, int]:
    """List two accounts with three days and two posts each."""
    with transaction(engine) as conn:
        keys = {
            "goose": add_account(conn, "x/goose", org_name="=Birds", is_core_account=True),
            "swan": add_account(conn, "mastodon/swan@pond.example", org_name="Ponds"),
        }
        for number, key in enumerate(keys.values()):
            history.keep(conn, key, *(days_ago(n) for n in (1, 2, 4)), followers=100 + number)
            history.keep(conn, key, days_ago(0), followers=107 + number)
            for ago in (3, 1):
                conn.execute(
                    text("""
                        INSERT INTO fact_social_post
                            (account_key, post_id, url, published_at, post_type, text, likes, read_at, source)
                        VALUES (:key, :id, 'https://x.example', CAST(:day AS date) + interval '1 hour', 'text',
                            :said, 0, now(), 'live')
                    """),
                    {"key": key, "id": f"p{ago}", "day": days_ago(ago), "said": '+1, "for"\r\nthe geese'},
                )
    return keys


def records(answer: Any) -> list[dict[str, Any]]:
    """Return the rows of a JSON export."""
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = json.loads(answer.content)
    return found


def test_every_format_holds_every_row_with_every_field_in_order(api: InProcess, filled: Any) -> None:
    for kind, count in {"summary": 2, "grid": 8, "accounts": 2, "posts": 4}.items():
        _holds_all(api, kind, count)


def _holds_all(api: InProcess, kind: str, count: int) -> None:
    answers = {name: api.get(f"/api/export/{kind}?format={name}") for name in MEDIA_TYPES}
    for name, answer in answers.items():
        assert answer.status_code == 200
        assert answer.headers["content-type"] == MEDIA_TYPES[name]
        file = f"rollcall-{kind}-{days_ago(0)}.{name}"
        assert answer.headers["content-disposition"] == f'attachment; filename="{file}"'
        assert (answer.headers["cache-control"], answer.headers["vary"]) == ("no-store", "Accept, Accept-Encoding")
    rows = records(answers["json"])
    assert len(rows) == count
    assert [tuple(row) for row in rows] == [KINDS[kind].__struct_fields__] * len(rows)
    assert [json.loads(line) for line in answers["ndjson"].content.splitlines()] == rows
    table = parquet.read_table(io.BytesIO(answers["parquet"].content)).to_pylist()
    assert [tuple(row) for row in table] == [tuple(row) for row in rows]
    assert [row["handle"] for row in table] == [row["handle"] for row in rows]
    cells = list(csv.DictReader(io.StringIO(answers["csv"].content.decode(), newline="")))
    assert [tuple(row) for row in cells] == [tuple(row) for row in rows]
    assert {row["org_name"] for row in cells} == {"'=Birds", "Ponds"}  # shown by a spreadsheet, not run
    assert answers["xlsx"].content.startswith(b"PK")
    assert int(answers["xlsx"].headers["content-length"]) == len(answers["xlsx"].content)


def test_the_grid_is_the_list_s_newest_day_first_with_the_change_to_the_day_before(
    api: InProcess, filled: Mapping[str, int], engine: Engine
) -> None:
    with transaction(engine) as conn:
        conn.execute(
            text("UPDATE fact_followers_snapshot SET precision = 'held' WHERE account_key = :key AND snapshot_date = :day"),
            {"key": filled["swan"], "day": days_ago(1)},
        )  # fmt: skip
    rows = records(api.get("/api/export/grid?format=json"))
    goose, swan = filled.values()
    found = [(row["snapshot_date"], row["account_key"], row["followers"], row["delta_1d"]) for row in rows]
    assert found == [
        (str(days_ago(0)), goose, 107, 7),
        (str(days_ago(0)), swan, 108, None),  # nothing to compare with that is believed
        (str(days_ago(1)), goose, 100, 0),
        (str(days_ago(1)), swan, None, None),
        (str(days_ago(2)), goose, 100, None),
        (str(days_ago(2)), swan, 101, None),
        (str(days_ago(4)), goose, 100, None),
        (str(days_ago(4)), swan, 101, None),
    ]


FILTERS = {
    "platform=x": {"summary": 1, "grid": 4, "accounts": 1, "posts": 2},
    "org=%3DBirds": {"summary": 1, "grid": 4, "accounts": 1, "posts": 2},
    "platform=x&org=Ponds": {"summary": 0, "grid": 0, "accounts": 0, "posts": 0},
    "core=true": {"summary": 1, "grid": 4, "accounts": 1, "posts": 2},
    "core=false&q=SWAN%40pond": {"summary": 1, "grid": 4, "accounts": 1, "posts": 2},
    "q=100%25": {"summary": 0, "grid": 0, "accounts": 0, "posts": 0},
    "status=fresh": {"summary": 1, "accounts": 1},
    "from={1}": {"grid": 4, "posts": 2},
    "from={3}&to={2}": {"grid": 2, "posts": 2},
    "to={5}": {"grid": 0, "posts": 0},
}


def test_filters_are_those_of_the_lists(
    api: InProcess, engine: Engine, filled: Mapping[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with transaction(engine) as conn:
        keep(conn, filled["goose"], 107, captured_at=fakes.NOON)
    for few in (1_000, 0):
        monkeypatch.setattr("db.grid._FEW", few)
        for query, count in FILTERS.items():
            asked = query.format(*map(days_ago, range(6)))
            found = {kind: len(records(api.get(f"/api/export/{kind}?format=json&{asked}"))) for kind in count}
            assert found == count, query


@pytest.mark.parametrize("few", [1_000, 0])
def test_the_grid_exported_is_the_grid_paged_through(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr("db.grid._FEW", few)
    with transaction(engine) as conn:
        keys = [add_account(conn, f"x/bird{n}", org_name=f"org{n % 2}") for n in range(5)]
        for number, key in enumerate(keys):
            history.keep(conn, key, *(days_ago(n) for n in range(9) if n % (number + 1)), followers=number)
    for filters in (grid.Filters(), grid.Filters(org="org1"), grid.Filters(text="bird"), grid.Filters(core=True)):
        with transaction(engine) as conn:
            paged = grid.part(
                conn, Cell.__struct_fields__, filters, Order("snapshot_date", True), Window(limit=1_000)
            )
            whole = [tuple(row) for rows in grid.whole(conn, filters) for row in rows]
        assert whole == [tuple(row) for row in paged.rows]


def test_only_the_fields_asked_for_come_in_their_order(api: InProcess, filled: Any) -> None:
    answer = api.get("/api/export/summary?fields=followers,handle")
    assert answer.content == b"followers,handle\r\n107,goose\r\n108,swan@pond.example\r\n"
    rows = parquet.read_table(io.BytesIO(api.get("/api/export/grid?fields=handle&format=parquet").content))
    assert rows.column_names == ["handle"]


def test_accept_chooses_the_format_and_csv_is_what_comes_without(api: InProcess, filled: Any) -> None:
    wanted = {
        "*/*": "csv",
        "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8": "csv",
        "application/json": "json",
        "application/x-ndjson, application/json;q=0.9": "ndjson",
        "text/csv;q=0.1, application/vnd.apache.parquet": "parquet",
        MEDIA_TYPES["xlsx"]: "xlsx",
    }
    assert api.get("/api/export/summary").headers["content-type"] == MEDIA_TYPES["csv"]
    for accept, name in wanted.items():
        assert api.get("/api/export/summary", Accept=accept).headers["content-type"] == MEDIA_TYPES[name]
        assert (
            api.get("/api/export/summary?format=json", Accept=accept).headers["content-type"] == MEDIA_TYPES["json"]
        )
    for unusable in ("image/png", "garbage", "text/csv;q=0"):
        assert api.get("/api/export/summary", Accept=unusable).status_code == 406


def test_what_cannot_be_given_is_refused_by_name(api: InProcess, filled: Any) -> None:
    refused = {
        "summary?format=xml": ("format", "'xml' is not one of csv, ndjson, json, xlsx, parquet"),
        "summary?from=2026-01-01": ("from", "is not a parameter here"),
        "grid?status=fresh": ("status", "is not a parameter here"),
        "grid?from=2026-02-01&to=2026-01-01": ("from", "is later than 2026-01-01"),
        "grid?to=1999-12-31": ("to", "does not lie between"),
        "posts?fields=secret": ("fields", "'secret' is not one of"),
        "accounts?platform=xx": ("platform", "'xx' is not one of"),
        "accounts?page=2": ("page", "is not a parameter here"),
    }
    for path, (field, reason) in refused.items():
        answer = api.get(f"/api/export/{path}")
        assert answer.status_code == 400, path
        (error,) = answer.json["errors"]
        assert (error["field"], reason in error["reason"]) == (field, True), error
        assert answer.headers["content-type"] == "application/problem+json"
        assert "content-disposition" not in answer.headers
    assert api.get("/api/export/keys").status_code == 404


def test_a_long_export_is_compressed_as_it_comes(api: InProcess, engine: Engine) -> None:
    with transaction(engine) as conn:
        for number in range(1_500):
            add_account(conn, f"x/bird{number}")
    for name in ("csv", "ndjson", "json"):
        path = f"/api/export/accounts?format={name}&fields=account_key,handle"
        plain = api.get(path)
        assert "content-encoding" not in plain.headers
        assert plain.content.count(b"bird") == 1_500
        for encoding, decode in DECODE.items():
            packed = api.get(path, Accept_Encoding=encoding)
            assert packed.headers.get("content-encoding", "identity") == encoding
            assert decode(packed.content) == plain.content


def test_packed_formats_are_not_packed_again(api: InProcess, filled: Any) -> None:
    for name in ("xlsx", "parquet"):
        answer = api.get(f"/api/export/summary?format={name}", Accept_Encoding="gzip, zstd")
        assert "content-encoding" not in answer.headers


def test_head_says_what_would_come_without_reading_it(api: InProcess, filled: Any) -> None:
    for name in MEDIA_TYPES:
        answer = api.ask("HEAD", f"/api/export/grid?format={name}", Accept_Encoding="gzip")
        said = dict(api.get(f"/api/export/grid?format={name}", Accept_Encoding="gzip").headers)
        assert (answer.status_code, answer.content) == (200, b"")
        own = {"x-request-id": answer.headers["x-request-id"]}
        said.pop("content-length", None)
        assert dict(answer.headers) == said | own
    assert api.ask("HEAD", "/api/export/grid?format=xml").status_code == 400


def test_no_transaction_is_open_while_a_workbook_is_written(
    api: InProcess, engine: Engine, filled: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    fill = formats._fill

    def look(sheet: Any, columns: Any, rows: Any, styles: Any) -> int:
        def watched() -> Iterator[Any]:
            for row in rows:
                with reading(engine) as conn:
                    seen.append(conn.scalar(text(OPEN)))
                yield row

        return fill(sheet, columns, watched(), styles)

    monkeypatch.setattr(formats, "_fill", look)
    assert api.get("/api/export/grid?format=xlsx").status_code == 200
    assert seen == [0] * 8


def test_what_was_counted_of_statements_bears_exports(database_url: str, redis_url: str, filled: Any) -> None:
    with in_process(fakes.settings(database_url, redis_url, DB_PROFILE="true", DB_SLOW_MS="0.0001")) as api:
        assert len(records(api.get("/api/export/grid?format=json"))) == 8
