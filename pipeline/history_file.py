"""The file of a history, row by row in flat memory: CSV with any of the usual separators, JSON lines, Parquet.

CSV and JSON lines may be compressed with gzip, and may come by standard input. What a row means is for
pipeline.history to say.
"""

import csv
import io
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from gzip import BadGzipFile, GzipFile
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast, get_args

import msgspec
from msgspec import Struct

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[Format, ...] = get_args(Format)
STDIN = "-"

NUMBERS = ("followers", "following", "posts", "engagement")
# What a column may be called; anything else is left out, and said so.
_FIELDS = {
    "account": "account",
    "url": "url",
    "account_url": "url",
    "platform": "platform",
    "handle": "handle",
    "date": "date",
    "day": "date",
    "snapshot_date": "date",
    **{name: name for name in NUMBERS},
    "captured_at": "captured_at",
    "precision": "precision",
    "source": "source",
}
# `rollcall export history` writes these too: no use here, and no surprise.
_EXPECTED = ("account_key", "org_name")
_COLUMNS = (
    "account (or platform and handle, or url), date, and at least one of followers, following, posts and engagement"
)
_SUFFIXES: Mapping[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
}
_BOM = b"\xef\xbb\xbf"
_UTF16 = (b"\xff\xfe", b"\xfe\xff")
_LONGEST_LINE_BYTES = 16_384
_MOST_UNKNOWN = 20
# Rows of Parquet that are unpacked at a time.
_PIECE = 5_000
# Histories shrink to a tenth, dull ones to a fiftieth. A file that unpacks to more than this is made to do harm.
_MOST_UNPACKED = 200
_ALWAYS_UNPACKED_BYTES = 16 * 2**20


class NotAHistory(Exception):
    """The file can't be read as a history, or not any further; `str()` says why and how to mend it."""


class Row(Struct, frozen=True):
    """One row: what it says by field. `number` counts as a reader of the file would, `written` is it as it stands."""

    number: int
    values: Mapping[str, Any]
    written: bytes | Mapping[str, Any]


class BadRow(Struct, frozen=True):
    """A row that can't be read, and why. Its neighbours can."""

    number: int
    reason: str
    written: bytes | Mapping[str, Any]


Rows = Iterator[Row | BadRow]


class HistoryFile:
    """An open file. `unknown_columns` are those met so far that say nothing here."""

    def __init__(self, counted: "_Counted", size_bytes: int | None, rows: Callable[[dict[str, None]], Rows]) -> None:
        self.size_bytes = size_bytes
        self.unknown_columns: dict[str, None] = {}
        self.rows = rows(self.unknown_columns)
        self._counted = counted

    @property
    def read_bytes(self) -> int:
        """Return how much of the file has been read."""
        return self._counted.count


@contextmanager
def opened(name: str, given: Format | None = None) -> Iterator[HistoryFile]:
    """Open a file, `-` for standard input. Without a given format its name decides, else how it begins.

    Rows are numbered by line (CSV, JSON lines) or by place from 1 (Parquet). Raises NotAHistory, also while rows are
    read, and OSError where the file can't be opened.
    """
    if name == STDIN:
        yield _opened(cast(BinaryIO, sys.stdin.buffer), None, given)
        return
    path = Path(name)
    with path.open("rb", buffering=0) as raw:
        size_bytes = path.stat().st_size if path.is_file() else None
        by_name = _SUFFIXES.get(Path(name.lower().removesuffix(".gz")).suffix)
        yield _opened(cast(BinaryIO, raw), size_bytes, given or by_name)


def _opened(raw: BinaryIO, size_bytes: int | None, kind: Format | None) -> HistoryFile:
    counted = _Counted(raw)
    stream: io.BufferedReader[Any] = io.BufferedReader(counted)
    if stream.peek(2).startswith(b"\x1f\x8b"):
        stream = io.BufferedReader(_Unpacked(stream, counted))
    start = stream.peek(4)
    if start.startswith(b"PK\x03\x04"):
        raise NotAHistory("The file is an Excel or ZIP file: save it as CSV, or unpack it.")
    if start.startswith(b"["):
        raise NotAHistory("The file is a JSON array: write one object a line.")
    if start.startswith(_UTF16):
        raise NotAHistory("The file is written in UTF-16: save it as UTF-8.")
    if start.startswith(b"PAR1"):
        kind = "parquet"  # whatever it is called
    kind = kind or ("jsonl" if start.removeprefix(_BOM).startswith(b"{") else "csv")
    if kind == "parquet":
        if size_bytes is None:
            raise NotAHistory("Parquet is read from its end: save it as a file first.")
        return HistoryFile(counted, size_bytes, lambda unknown: _parquet(stream, unknown))
    read = {"csv": _csv, "jsonl": _json_lines}[kind]
    return HistoryFile(counted, size_bytes, lambda unknown: read(_lines(stream), unknown))


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it."""

    def __init__(self, raw: BinaryIO) -> None:
        self.count = 0
        self._raw = raw

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return self._raw.seekable()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._raw.seek(offset, whence)

    def tell(self) -> int:
        return self._raw.tell()

    def readinto(self, buffer: Any) -> int:
        part = self._raw.read(len(buffer))
        buffer[: len(part)] = part
        self.count += len(part)
        return len(part)


class _Unpacked(io.RawIOBase):
    """What a gzip stream holds. Raises NotAHistory where it is damaged, or unpacks to far more than it is."""

    def __init__(self, packed: "io.BufferedReader[Any]", counted: _Counted) -> None:
        self._gzip = GzipFile(fileobj=packed)
        self._counted = counted
        self._unpacked_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            part = self._gzip.read1(len(buffer))
        except (EOFError, BadGzipFile, zlib.error) as exc:
            raise NotAHistory(f"The gzip file is cut off or damaged ({exc}): fetch it again.") from exc
        buffer[: len(part)] = part
        self._unpacked_bytes += len(part)
        if self._unpacked_bytes > max(_ALWAYS_UNPACKED_BYTES, _MOST_UNPACKED * self._counted.count):
            raise NotAHistory(
                f"The gzip file unpacks to more than {_MOST_UNPACKED} times its size, as no history does: unpack it yourself."
            )
        return len(part)


_Lines = Iterator[tuple[int, bytes]]


def _lines(stream: "io.BufferedReader[Any]") -> _Lines:
    """Yield lines with their numbers, without blank ones. One that is too long comes as far as it may be long."""
    for number in count(1):
        line = stream.readline(_LONGEST_LINE_BYTES)
        if not line:
            return
        rest = line
        while len(rest) == _LONGEST_LINE_BYTES and not rest.endswith(b"\n"):
            rest = stream.readline(_LONGEST_LINE_BYTES)
        if number == 1:
            line = line.removeprefix(_BOM)
        if line.strip():
            yield number, line


def _decoded(line: bytes) -> str:
    """Return a line as text. Raises ValueError that says what is wrong with it."""
    if len(line) == _LONGEST_LINE_BYTES:
        raise ValueError(f"is longer than {_LONGEST_LINE_BYTES:,} bytes")
    try:
        return line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8: save the file as UTF-8") from None


def _csv(lines: _Lines, unknown: dict[str, None]) -> Rows:
    fields, separator = _heading(lines, unknown)
    for number, line in lines:
        try:
            cells = _cells(line, separator, len(fields))
        except ValueError as exc:
            yield BadRow(number, str(exc), line)
            continue
        if any(cells):
            yield Row(number, {name: cell for name, cell in zip(fields, cells, strict=True) if name}, line)


def _heading(lines: _Lines, unknown: dict[str, None]) -> tuple[tuple[str | None, ...], str]:
    """Read the line that names the columns; return what each is, and the separator."""
    _, line = next(lines, (0, b""))
    if not line:
        raise NotAHistory("The file is empty.")
    try:
        text = _decoded(line)
        separator = max(",;\t", key=text.count)
        columns = next(csv.reader((text,), delimiter=separator, strict=True))
    except (ValueError, csv.Error) as exc:
        raise NotAHistory(f"The first line, which names the columns, {exc}.") from exc
    fields, unheard_of = _fields(tuple(columns))
    unknown.update(dict.fromkeys(unheard_of))
    return fields, separator


def _cells(line: bytes, separator: str, width: int) -> list[str]:
    """Return the cells of one line: no value holds a line break, so a quotation mark costs its own line only."""
    try:
        cells = next(csv.reader((_decoded(line),), delimiter=separator, strict=True))
    except csv.Error as exc:
        raise ValueError(f"has a quotation mark that is not closed, or not in its place ({exc})") from exc
    while len(cells) > width and not cells[-1].strip():
        cells.pop()
    if len(cells) != width:
        raise ValueError(
            f"has {len(cells)} values for {width} columns: put values that hold {separator!r} in quotes"
            if len(cells) > width
            else f"has {len(cells)} values for {width} columns: it may be cut off"
        )
    return cells


def _json_lines(lines: _Lines, unknown: dict[str, None]) -> Rows:
    for number, line in lines:
        try:
            record = msgspec.json.decode(_decoded(line))
            if not isinstance(record, dict):
                raise ValueError("is not a JSON object")
            fields, unheard_of = _fields(tuple(record))
        except msgspec.DecodeError as exc:
            yield BadRow(number, f"is not JSON: {exc}", line)
        except RecursionError:
            yield BadRow(number, "is nested too deeply", line)
        except (ValueError, NotAHistory) as exc:
            yield BadRow(number, str(exc), line)
        else:
            if len(unknown) < _MOST_UNKNOWN:  # each line may bring others
                unknown.update(dict.fromkeys(unheard_of))
            yield Row(number, _named(fields, record), line)


def _parquet(stream: "io.BufferedReader[Any]", unknown: dict[str, None]) -> Rows:
    # Only who reads Parquet waits for it to be loaded.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(stream, pre_buffer=False) as file:
            fields, unheard_of = _fields(tuple(file.schema_arrow.names))
            unknown.update(dict.fromkeys(unheard_of))
            wanted = [name for name, field in zip(file.schema_arrow.names, fields, strict=True) if field]
            numbers = count(1)
            for piece in file.iter_batches(batch_size=_PIECE, columns=wanted, use_threads=False):
                for record in piece.to_pylist():
                    yield Row(next(numbers), _named(_fields(tuple(record))[0], record), record)
    except (pyarrow.ArrowException, OSError, ValueError) as exc:
        raise NotAHistory(f"The Parquet file is cut off or damaged: {_first_line(exc)}.") from exc


def _named(fields: Sequence[str | None], record: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in zip(fields, record.values(), strict=True) if field}


@lru_cache(maxsize=256)
def _fields(columns: tuple[str, ...]) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """Return what each column is, None for one that says nothing here, and those of which it is not known why.

    Raises NotAHistory where they name no account, day or number, or one of them twice.
    """
    squeezed = [re.sub(r"[\s-]+", "_", column.strip().lower()) for column in columns]
    fields = tuple(map(_FIELDS.get, squeezed))
    named = [field for field in fields if field]
    twice = next((field for field in named if named.count(field) > 1), None)
    if twice:
        raise NotAHistory(f"Two columns say {twice}: leave one of them out.")
    names_account = "account" in named or "url" in named or {"platform", "handle"} <= {*named}
    if not (names_account and "date" in named and any(name in named for name in NUMBERS)):
        raise NotAHistory(f"The columns must be named, in UTF-8: {_COLUMNS}.")
    unknown = (
        column
        for column, name, field in zip(columns, squeezed, fields, strict=True)
        if not field and name and name not in _EXPECTED
    )
    return fields, tuple(unknown)


def _first_line(exc: Exception) -> str:
    return str(exc).partition("\n")[0].rstrip(".")
