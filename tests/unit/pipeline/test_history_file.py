"""The file of a history is read as programs write it; a row that can't be read costs only itself."""

import gzip
import io
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from pipeline import history_file
from pipeline.history_file import BadRow, NotAHistory, Row

HEADING = "account,date,followers\n"
TABLE = {
    "platform": ["x", "x"],
    "handle": ["goose", "duck"],
    "snapshot_date": [date(2024, 3, 1), date(2024, 3, 2)],
    "followers": [5.0, None],
}


@pytest.fixture
def read(tmp_path: Path):
    """Read what a file of this name would hold."""

    def read_(content: str | bytes, name: str = "history.csv", given=None) -> list[Row | BadRow]:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        with history_file.opened(str(path), given) as file:
            return list(file.rows)

    return read_


def table(**columns: list) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue()


def values(rows: list[Row | BadRow]) -> list[dict]:
    assert all(isinstance(row, Row) for row in rows), rows
    return [dict(row.values) for row in rows]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_every_common_way_of_saving_csv_reads_the_same(read, separator, line_end, mark):
    lines = [("Account", "Snapshot date", "followers"), ("x/goose", "2024-03-01", "5"), ("", "", "")]
    content = mark + line_end.join(map(separator.join, lines)).encode()
    assert values(read(content)) == [{"account": "x/goose", "date": "2024-03-01", "followers": "5"}]


def test_rows_are_numbered_by_their_line_blank_ones_counted(read):
    assert [row.number for row in read(HEADING + "\nx/goose,2024-03-01,5\n,,\nx/goose,2024-03-02,6")] == [3, 5]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x/g\xf6\xf6se,2024-03-01,5", "is not UTF-8"),
        (b'x/goose,"2024-03-01,5', "quotation mark"),
        (b"x/goose,2024-03-01,1,234", "has 4 values for 3 columns: put values"),
        (b"x/goose,2024-03-01", "has 2 values for 3 columns: it may be cut off"),
        (b"x" * 50_000, "is longer than 16,384 bytes"),
    ],
)
def test_a_line_that_cannot_be_read_costs_itself_alone(read, line, reason):
    before, bad, after = read(HEADING.encode() + b"x/a,2024-03-01,1\n" + line + b"\nx/b,2024-03-01,2\n")
    assert reason in bad.reason
    assert bad.number == 3
    assert line.startswith(bad.written.rstrip(b"\n"))
    assert [before.values["followers"], after.values["followers"]] == ["1", "2"]
    assert after.number == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "is not JSON"),
        ('["x/goose"]', "is not a JSON object"),
        ("7", "is not a JSON object"),
        ("[" * 5_000, "is nested too deeply"),
        ('{"account": "x/goose", "followers": 5}', "The columns must be named"),
        ('{"account": "x/goose", "date": "2024-03-01", "day": "2024-03-02", "posts": 1}', "Two columns say date"),
    ],
)
def test_a_json_line_that_cannot_be_read_costs_itself_alone(read, line, reason):
    good = json.dumps({"account": "x/goose", "date": "2024-03-01", "followers": 5})
    before, bad, after = read(f"{good}\n{line}\n\n{good}\n", "history.jsonl")
    assert reason in bad.reason
    assert (before.values, after.number) == (after.values, 4)


def test_parquet_is_read_with_the_columns_that_are_known_alone(read):
    rows = read(table(**TABLE, mood=["good", "bad"]), "history.parquet")
    assert values(rows) == [
        {"platform": "x", "handle": "goose", "date": date(2024, 3, 1), "followers": 5.0},
        {"platform": "x", "handle": "duck", "date": date(2024, 3, 2), "followers": None},
    ]
    assert [row.number for row in rows] == [1, 2]


def test_unknown_columns_are_told_but_not_those_that_an_export_has(tmp_path):
    (tmp_path / "h.csv").write_text(
        "account_key,account,org_name,date,followers,mood\n1,x/goose,Geese,2024-03-01,5,good\n"
    )
    with history_file.opened(str(tmp_path / "h.csv")) as file:
        assert values(list(file.rows)) == [{"account": "x/goose", "date": "2024-03-01", "followers": "5"}]
        assert list(file.unknown_columns) == ["mood"]
        assert file.read_bytes == file.size_bytes


@pytest.mark.parametrize("name", ["h.csv.gz", "h", "h.csv", "H.CSV"])
def test_gzip_and_format_are_known_by_how_the_file_begins_whatever_its_name(read, name):
    content = (HEADING + "x/goose,2024-03-01,5\n").encode()
    assert values(read(gzip.compress(content), name)) == values(read(content, name))
    lines = b'{"account": "x/goose", "date": "2024-03-01", "followers": 5}\n'
    assert values(read(gzip.compress(lines), "h")) == values(read(lines, "h.jsonl"))
    assert len(read(table(**TABLE), "h")) == 2


@pytest.mark.parametrize(
    ("content", "name", "reason"),
    [
        (b"", "h.csv", "is empty"),
        (b"\n\n", "h.csv", "is empty"),
        (b"date,followers\n", "h.csv", "The columns must be named"),
        (b"account,followers\n", "h.csv", "The columns must be named"),
        (b"account,date\n", "h.csv", "The columns must be named"),
        (b"platform,date,followers\n", "h.csv", "The columns must be named"),
        (b"account,date,day,followers\n", "h.csv", "Two columns say date"),
        (b"Dear colleague,\nplease find it attached\n", "h.csv", "The columns must be named"),
        (b'account,"date,followers\n', "h.csv", "The first line"),
        ("account,date,followers\n".encode("utf-16"), "h.csv", "UTF-16"),
        (b'[{"account": "x/goose"}]', "h.json", "is a JSON array"),
        (b"PK\x03\x04rest", "h.xlsx", "Excel or ZIP"),
        (b"PAR1", "h.parquet", "cut off or damaged"),
        (b"", "h.parquet", "cut off or damaged"),
        (table(**TABLE)[:-20], "h.parquet", "cut off or damaged"),
        (table(mood=["good"]), "h.parquet", "The columns must be named"),
        (gzip.compress(b"", mtime=0), "h.csv.gz", "is empty"),
        (b"\x1f\x8bnonsense", "h.csv.gz", "damaged"),
        (gzip.compress((HEADING * 9).encode(), mtime=0)[:-9], "h.csv.gz", "cut off"),
    ],
)
def test_a_file_that_is_no_history_says_what_it_is(read, content, name, reason):
    with pytest.raises(NotAHistory, match=reason):
        read(content, name)


def test_what_stands_before_the_damage_is_read(tmp_path):
    (tmp_path / "h.csv.gz").write_bytes(gzip.compress((HEADING + "x/goose,2024-03-01,5\n" * 20_000).encode())[:-20])
    count = 0
    with history_file.opened(str(tmp_path / "h.csv.gz")) as file, pytest.raises(NotAHistory, match="cut off"):
        for _ in file.rows:
            count += 1
    assert count > 10_000


@pytest.mark.parametrize("filler", [b"0", b"\n", b"x/goose,2024-03-01,5\n"])
def test_a_small_file_that_unpacks_to_an_endless_one_is_refused(read, filler):
    bomb = gzip.compress(HEADING.encode() + filler * (40 * 2**20 // len(filler)))
    with pytest.raises(NotAHistory, match="unpacks to more than 200 times its size"):
        read(bomb, "h.csv.gz")


def test_a_stream_has_no_size_and_takes_no_parquet(monkeypatch):
    def standard_input(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    standard_input(HEADING.encode() + b"x/goose,2024-03-01,5\n")
    with history_file.opened("-") as file:
        assert len(list(file.rows)) == 1
        assert file.size_bytes is None
    standard_input(table(**TABLE))
    with pytest.raises(NotAHistory, match="save it as a file"), history_file.opened("-"):
        pass


def test_a_given_format_outranks_the_name(read):
    assert len(read(HEADING + "x/goose,2024-03-01,5\n", "h.jsonl", given="csv")) == 1


def test_times_and_days_of_parquet_stay_what_they_are(read):
    at = datetime(2024, 3, 1, tzinfo=UTC).replace(tzinfo=None)
    columns = {"account": ["x/goose"], "date": [at], "followers": [5]}
    assert values(read(table(**columns), "h.parquet")) == [{"account": "x/goose", "date": at, "followers": 5}]
