"""Rows as the bytes of a file: CSV, JSON lines, JSON, Parquet, XLSX. In flat memory, and a piece as soon as it is there.

An XLSX file is whole only at its end, so its bytes come then.
"""

import csv
import io
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from itertools import chain, count, islice
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Struct

Format = Literal["csv", "jsonl", "json", "parquet", "xlsx"]
FORMATS: tuple[Format, ...] = get_args(Format)
SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
Batches = Iterable[Sequence[Sequence[Any]]]

# A spreadsheet takes a text that begins with one of these for a formula, and runs it; where people write Chinese, Japanese
# or Korean, the wide ones too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ROW_GROUP = 20_000
_ROW_GROUP_BYTES = 4 << 20
_PIECE_BYTES = 65_536
# What a sheet and a cell of Excel hold.
_SHEET_ROWS = 1_048_576
_LONGEST_CELL = 32_767


class Column(Struct, frozen=True):
    """A column of rows; `kind` is str, int, float, bool, date or datetime. Any value may be None."""

    name: str
    kind: type


def columns_of(row_type: type) -> tuple[Column, ...]:
    """Return the columns of rows whose values stand as the fields of a struct do."""
    return tuple(Column(name, _kind(hint)) for name, hint in get_type_hints(row_type).items())


def chosen(
    columns: Sequence[Column], batches: Batches, names: Sequence[str] | None
) -> tuple[Sequence[Column], Batches]:
    """Return only these of the columns, in this order, and rows that have no others; all of them where None."""
    if names is None:
        return columns, batches
    places = [next(place for place, column in enumerate(columns) if column.name == name) for name in names]
    return [columns[place] for place in places], (
        [[row[place] for place in places] for row in rows] for rows in batches
    )


def kept(columns: Sequence[Column], batches: Batches, folder: Path) -> Generator[Sequence[Sequence[Any]], None, None]:
    """Take in all rows before the first is given on, by way of a file: a workbook is written slower than rows are read."""
    with tempfile.TemporaryFile(dir=folder) as file:
        for rows in batches:
            file.write(msgspec.json.encode([tuple(row) for row in rows]) + b"\n")
        file.seek(0)
        row_type: Any = tuple[tuple(column.kind | None for column in columns)]  # type: ignore[misc]
        yield from map(msgspec.json.Decoder(list[row_type]).decode, file)


def encode(
    as_format: Format, title: str, columns: Sequence[Column], batches: Batches, *, folder: Path | None = None
) -> Iterator[bytes]:
    """Yield the bytes of a file that holds these rows.

    `title` names the sheets of XLSX; `folder` is where that grows until it is whole, the system's own without.
    """
    if as_format == "xlsx":
        return _xlsx(title, columns, batches, folder)
    writers = {"csv": _csv, "jsonl": _json_lines, "json": _json, "parquet": _parquet}
    return writers[as_format](columns, batches)


def safe_cell(text: str) -> str:
    """Return a text that a spreadsheet shows rather than runs."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def plain_cell(text: str) -> str:
    """Return the text that a safe cell was made of."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_FORMULA) else text


def _kind(hint: Any) -> type:
    """Return the one type behind `int | None` or a Literal."""
    if get_origin(hint) is Literal:
        return str
    if get_args(hint):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
        return _kind(hint)
    kind: type = hint
    return kind


def _csv(columns: Sequence[Column], batches: Batches) -> Iterator[bytes]:
    written: dict[type, Callable[[Any], str]] = {str: safe_cell, bool: _yes_no, datetime: _moment}
    others = [(place, written[column.kind]) for place, column in enumerate(columns) if column.kind in written]
    yield _csv_lines([[column.name for column in columns]])
    for rows in batches:
        yield _csv_lines(_cells(row, others) for row in rows)


def _cells(row: Sequence[Any], others: Sequence[tuple[int, Callable[[Any], str]]]) -> list[Any]:
    """Return a row with those values written that csv wouldn't write as they should be."""
    cells = list(row)
    for place, write in others:
        if cells[place] is not None:
            cells[place] = write(cells[place])
    return cells


def _csv_lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _yes_no(value: bool) -> str:
    return "true" if value else "false"


def _moment(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")


def _json_lines(columns: Sequence[Column], batches: Batches) -> Iterator[bytes]:
    names = [column.name for column in columns]
    encoder = msgspec.json.Encoder()
    for rows in batches:
        yield encoder.encode_lines([dict(zip(names, row, strict=True)) for row in rows])


def _json(columns: Sequence[Column], batches: Batches) -> Iterator[bytes]:
    """Yield one array, a row a line; it has its end once all rows are there."""
    before = b"[\n"
    for lines in _json_lines(columns, batches):
        if lines:
            yield before + lines[:-1].replace(b"\n", b",\n")  # within a text, JSON writes a line's end as \\n
            before = b",\n"
    yield b"\n]\n" if before == b",\n" else b"[]\n"


def _parquet(columns: Sequence[Column], batches: Batches) -> Iterator[bytes]:
    # Only who writes Parquet waits for it to be loaded.
    import pyarrow
    from pyarrow import parquet

    # Its own allocator, or this one left alone, keeps some 20 MB more for itself.
    pool = pyarrow.system_memory_pool()
    pyarrow.set_memory_pool(pool)
    kinds = {
        str: pyarrow.string(),
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        date: pyarrow.date32(),
        datetime: pyarrow.timestamp("us", tz="UTC"),
    }
    schema = pyarrow.schema([(column.name, kinds[column.kind]) for column in columns])
    sink = _Sink()
    with parquet.ParquetWriter(sink, schema, compression="zstd") as writer:
        yield sink.take()
        waiting: list[Any] = []
        for rows in batches:
            if not rows:  # they have no columns then
                continue
            values = zip(*rows, strict=True)
            arrays = [pyarrow.array(column, field.type) for column, field in zip(values, schema, strict=True)]
            waiting.append(pyarrow.record_batch(arrays, schema=schema))
            if _is_group(waiting):
                writer.write_table(pyarrow.Table.from_batches(waiting))
                waiting.clear()
                pool.release_unused()
                yield sink.take()
        if waiting:
            writer.write_table(pyarrow.Table.from_batches(waiting))
    yield sink.take()


def _is_group(waiting: Sequence[Any]) -> bool:
    """Tell whether these batches are rows enough to be written: in number, or, where they are long texts, in bytes."""
    of_rows, of_bytes = sum(piece.num_rows for piece in waiting), sum(piece.nbytes for piece in waiting)
    return bool(of_rows >= _ROW_GROUP or of_bytes >= _ROW_GROUP_BYTES)


class _Sink(io.RawIOBase):
    """A file that hands on what is written to it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, piece: Any) -> int:
        self._pieces.append(bytes(piece))
        return len(piece)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _xlsx(title: str, columns: Sequence[Column], batches: Batches, folder: Path | None) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory(dir=folder) as own:
        path = Path(own) / "rows.xlsx"
        _write_xlsx(path, title, columns, batches)
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                yield piece


def _write_xlsx(path: Path, title: str, columns: Sequence[Column], batches: Batches) -> None:
    """Write a workbook, with a further sheet wherever one is full."""
    # Only who writes XLSX waits for it to be loaded.
    import xlsxwriter

    options = {"constant_memory": True, "tmpdir": str(path.parent), "remove_timezone": True}
    with xlsxwriter.Workbook(path, options) as book:
        styles: dict[type, Any] = {
            date: book.add_format({"num_format": "yyyy-mm-dd"}),
            datetime: book.add_format({"num_format": "yyyy-mm-dd hh:mm:ss"}),
        }
        rows = chain.from_iterable(batches)
        for number in count(1):
            sheet = book.add_worksheet(title if number == 1 else f"{title} {number}")
            if _fill(sheet, columns, islice(rows, _SHEET_ROWS - 1), styles) < _SHEET_ROWS - 1:
                return


def _fill(sheet: Any, columns: Sequence[Column], rows: Iterable[Sequence[Any]], styles: Mapping[type, Any]) -> int:
    """Write rows below the names of their columns; return how many there were."""
    writers: dict[type, Callable[[int, int, Any], object]] = {
        str: lambda line, place, text: sheet.write_string(line, place, _cut(text)),  # text, whatever it begins with
        int: sheet.write_number,
        float: sheet.write_number,
        bool: sheet.write_boolean,
        date: lambda line, place, day: sheet.write_datetime(line, place, day, styles[date]),
        datetime: lambda line, place, at: sheet.write_datetime(line, place, at, styles[datetime]),
    }
    write = [writers[column.kind] for column in columns]
    sheet.write_row(0, 0, [column.name for column in columns])
    line = 0
    for line, row in enumerate(rows, 1):
        for place, value in enumerate(row):
            if value is not None:
                write[place](line, place, value)
    return line


def _cut(text: str) -> str:
    """Return what a cell of Excel holds of a text."""
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"
