"""Rows become files that other programs read as they were meant, piece by piece."""

import csv
import io
import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime

import pytest
from msgspec import Struct
from pyarrow import parquet

from db.rows import Precision
from pipeline import formats
from pipeline.formats import columns_of, encode, plain_cell, safe_cell

AT = datetime(2026, 3, 2, 6, 30, tzinfo=UTC)


class Line(Struct):
    name: str
    day: date
    at: datetime | None
    count: int | None
    share: float | None
    known: bool | None
    precision: Precision | None


FULL = ("göose", date(2026, 3, 2), AT, 2**53, 0.5, False, "exact")
EMPTY = ("duck", date(2026, 3, 1), None, None, None, None, None)
COLUMNS = columns_of(Line)


def whole(kind, *batches, columns=COLUMNS) -> bytes:
    return b"".join(encode(kind, "lines", columns, batches))


def sheets(raw: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(raw)) as book:
        return {name: book.read(name).decode() for name in book.namelist() if name.endswith(".xml")}


def test_unknown_is_empty_or_null_and_never_zero():
    assert whole("csv", [FULL], [EMPTY]).decode().splitlines() == [
        "name,day,at,count,share,known,precision",
        "göose,2026-03-02,2026-03-02T06:30:00Z,9007199254740992,0.5,false,exact",
        "duck,2026-03-01,,,,,",
    ]
    lines = [json.loads(line) for line in whole("jsonl", [FULL], [EMPTY]).splitlines()]
    assert [tuple(line) for line in lines] == [Line.__struct_fields__] * 2
    assert [tuple(line.values()) for line in lines] == [
        ("göose", "2026-03-02", "2026-03-02T06:30:00Z", 2**53, 0.5, False, "exact"),
        ("duck", "2026-03-01", None, None, None, None, None),
    ]
    read = parquet.read_table(io.BytesIO(whole("parquet", [FULL], [EMPTY]))).to_pylist()
    assert [tuple(row.values()) for row in read] == [FULL, EMPTY]


def test_json_is_one_array_with_a_row_a_line_and_no_end_before_the_last():
    raw = whole("json", [FULL], [], [EMPTY, FULL])
    assert [tuple(row) for row in json.loads(raw)] == [Line.__struct_fields__] * 3
    assert [json.loads(line.rstrip(b",")) for line in raw.splitlines()[1:-1]] == json.loads(raw)
    said = "a\nb\u2028,\n}"
    assert json.loads(whole("json", [(said,)], [(said,)], columns=columns_of(Text))) == [{"text": said}] * 2
    *begun, _ = encode("json", "lines", COLUMNS, ([FULL], [EMPTY]))
    with pytest.raises(json.JSONDecodeError):
        json.loads(b"".join(begun))


def test_kept_rows_are_as_they_were_and_all_taken_in_before_the_first_is_given(tmp_path):
    taken = []

    def batches() -> Iterator[list[tuple]]:
        for rows in ([FULL], [], [EMPTY, ("a\nb\x00", *FULL[1:])]):
            yield rows
            taken.extend(rows)

    kept = formats.kept(COLUMNS, batches(), tmp_path)
    first = next(kept)
    assert len(taken) == 3
    assert [tuple(row) for rows in (first, *kept) for row in rows] == taken


def test_only_chosen_columns_come_in_their_order():
    columns, rows = formats.chosen(COLUMNS, ([FULL], [EMPTY]), ["count", "name"])
    assert whole("csv", *rows, columns=columns) == "count,name\r\n9007199254740992,göose\r\n,duck\r\n".encode()


def test_long_texts_end_a_row_group_of_parquet_before_they_fill_the_memory(monkeypatch):
    monkeypatch.setattr(formats, "_ROW_GROUP_BYTES", 1_000)
    raw = whole("parquet", *([("x" * 400,)] for _ in range(9)), columns=columns_of(Text))
    assert parquet.ParquetFile(io.BytesIO(raw)).num_row_groups == 3


def test_parquet_keeps_types_even_where_every_value_is_unknown():
    schema = parquet.read_schema(io.BytesIO(whole("parquet", [EMPTY])))
    assert [str(kind) for kind in schema.types] == [
        *("string", "date32[day]", "timestamp[us, tz=UTC]", "int64", "double", "bool", "string")
    ]


@pytest.mark.parametrize("batches", [(), ([],)])
@pytest.mark.parametrize("kind", formats.FORMATS)
def test_no_rows_make_a_file_that_can_be_opened(kind, batches):
    raw = whole(kind, *batches)
    if kind == "parquet":
        assert parquet.read_table(io.BytesIO(raw)).num_rows == 0
    elif kind == "xlsx":
        assert "xl/worksheets/sheet1.xml" in sheets(raw)
    else:
        heading = b"name,day,at,count,share,known,precision\r\n"
        assert raw == {"csv": heading, "jsonl": b"", "json": b"[]\n"}[kind]


class Text(Struct):
    text: str


DANGEROUS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"]


@pytest.mark.parametrize("text", DANGEROUS)
def test_a_spreadsheet_runs_no_text_of_a_csv_and_json_is_left_alone(text):
    columns = columns_of(Text)
    raw = whole("csv", [(text,)], columns=columns).decode()
    assert list(csv.reader(io.StringIO(raw, newline="")))[1] == [f"'{text}"]
    assert plain_cell(safe_cell(text)) == text
    assert json.loads(whole("jsonl", [(text,)], columns=columns)) == {"text": text}
    assert "<f>" not in sheets(whole("xlsx", [(text,)], columns=columns))["xl/worksheets/sheet1.xml"]


def test_negative_numbers_stay_numbers():
    assert whole("csv", [("a", date(2026, 3, 2), None, -5, -0.5, None, None)]).decode().splitlines()[1] == (
        "a,2026-03-02,,-5,-0.5,,"
    )


def test_other_texts_stay_as_they_are():
    for text in ("goose", "'goose", "", "1=1", "a\n=b"):
        assert safe_cell(text) == text
        assert plain_cell(text) == text


def test_a_full_sheet_is_followed_by_another(monkeypatch):
    monkeypatch.setattr(formats, "_SHEET_ROWS", 4)
    found = sheets(whole("xlsx", [EMPTY] * 5, [EMPTY] * 2))
    rows = [found[f"xl/worksheets/sheet{n}.xml"].count("<row ") for n in (1, 2, 3)]
    assert rows == [4, 4, 2]  # each with its heading
    assert 'name="lines 3"' in found["xl/workbook.xml"]


def test_xlsx_keeps_days_as_days_numbers_as_numbers_and_long_texts_cut():
    found = sheets(whole("xlsx", [FULL], [("x" * 40_000, *EMPTY[1:])]))["xl/worksheets/sheet1.xml"]
    assert "<v>9007199254740992</v>" in found or "<v>9.007199254740992E+15</v>" in found
    assert "göose" in found
    assert "x" * 32_766 + "…" in found
    assert "x" * 32_767 not in found


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_piece_is_there_as_soon_as_its_rows_are(kind, monkeypatch):
    monkeypatch.setattr(formats, "_ROW_GROUP", 1)
    asked = []

    def batches() -> Iterator[list[tuple]]:
        for number in range(3):
            asked.append(number)
            yield [FULL] * 10

    pieces = encode(kind, "lines", COLUMNS, batches())
    got = b""
    while b"g\xc3\xb6ose" not in got:
        got += next(pieces)
    assert asked == [0]
    assert len(got + b"".join(pieces)) > len(got)
