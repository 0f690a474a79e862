"""The file of an account list as rows of text: CSV with any of the usual separators, JSON array (also within an object) or JSON lines."""

import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from msgspec import Struct

from db.lines import has_unreadable, turns

# What a column may be called; anything else in the file is ignored, and said so.
_FIELDS = {
    "url": "url",
    "account_url": "url",
    "platform": "platform",
    "handle": "handle",
    "organization": "org_name",
    "organisation": "org_name",
    "org": "org_name",
    "org_name": "org_name",
    "owner_team": "owner_team",
    "account_type": "account_type",
    "is_core": "is_core",
    "is_core_account": "is_core",
    "is_active": "is_active",
    "read_interval": "read_interval",
}
_LONGEST_VALUE = 500
_LONGEST_RECORD_LINES = 20
# Far more than any record has; the csv module would call a value of more than 131,072 characters an unclosed quotation.
_LONGEST_LINE = 100_000


class NotAList(Exception):
    """The file as a whole can't be read as an account list; `str()` says how to mend it."""


class TooLong(NotAList):
    """The list has more rows than may be."""


class Row(Struct, frozen=True):
    """One account as written: non-empty values by field. `number` counts as the reader of the file would."""

    number: int
    values: Mapping[str, str]


class BadRow(Struct, frozen=True):
    """A row that can't be read, and why. Its neighbours can."""

    number: int
    reason: str


class AccountFile(Struct, frozen=True):
    rows: tuple[Row | BadRow, ...]
    unknown_columns: tuple[str, ...]


def read(raw: bytes, *, most_rows: int | None = None) -> AccountFile:
    """Read a whole file. Rows are numbered by line (CSV, JSON lines) or by place from 1 (JSON array or object).

    Blank rows are skipped. Raises NotAList: TooLong for more than `most_rows`, blank ones among them.
    """
    text = _decoded(raw)
    start = text.lstrip()[:1]
    if not start:
        raise NotAList("The file is empty.")
    records = {"[": _json_array, "{": _json_object_or_lines}.get(start, _csv)(text)
    rows: list[Row | BadRow] = []
    unknown: dict[str, None] = {}
    for read_before, (number, record) in enumerate(records):
        if read_before == most_rows:
            raise TooLong(f"The list has more than {most_rows:,} rows.")
        if isinstance(record, str):
            rows.append(BadRow(number, record))
            continue
        unknown.update({str(column): None for column in record if _field(column) is None})
        row = _row(number, record)
        if not isinstance(row, Row) or row.values:
            rows.append(row)
    return AccountFile(tuple(rows), tuple(unknown))


# A number and either a record by column, or what is wrong with it.
_Records = Iterator[tuple[int, Mapping[str, Any] | str]]


def _decoded(raw: bytes) -> str:
    """Decode UTF-8 with or without a byte order mark. A byte that doesn't fit spoils only its own row."""
    return raw.decode("utf-8-sig", errors="surrogateescape")


def _json_array(text: str) -> _Records:
    try:
        elements = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise NotAList(f"The file begins as a JSON array but is not one: {exc}.") from exc
    yield from _elements(elements)


def _json_object_or_lines(text: str) -> _Records:
    """Read JSON lines or, where the file is one object, the row that it is or the list that it holds."""
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        yield from _json_lines(text)
        return
    if any(_field(column) for column in whole):
        yield from _elements([whole])
        return
    lists = [value for value in whole.values() if isinstance(value, list)]
    if len(lists) != 1:
        raise NotAList(
            "The file is one JSON object, but holds no single list of accounts: save the list alone, as [{…}, …]."
        )
    yield from _elements(lists[0])


def _elements(elements: Sequence[Any]) -> _Records:
    for number, element in enumerate(elements, 1):
        yield number, element if isinstance(element, dict) else "is not a JSON object"


def _json_lines(text: str) -> _Records:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            element = json.loads(line)
        except (ValueError, RecursionError) as exc:
            yield number, f"is not JSON: {exc}"
            continue
        yield number, element if isinstance(element, dict) else "is not a JSON object"


def _csv(text: str) -> _Records:
    lines = _lines(text)
    first = next(i for i, line in enumerate(lines) if line.strip())
    separator = max(",;\t", key=lines[first].count)
    columns, position = _csv_record(lines, first, separator)
    if isinstance(columns, str):
        raise NotAList(f"The first line, which names the columns, {columns}.")
    fields = {_field(column) for column in columns}
    if "url" not in fields and not {"platform", "handle"} <= fields:
        raise NotAList("The first line must name the columns, in UTF-8: url, or platform and handle.")
    while position < len(lines):
        number = position + 1
        cells, position = _csv_record(lines, position, separator, width=len(columns))
        yield number, cells if isinstance(cells, str) else dict(zip(columns, cells, strict=False))


def _csv_record(
    lines: list[str], start: int, separator: str, *, width: int | None = None
) -> tuple[list[str] | str, int]:
    """Return the record that begins in a line (or what is wrong with it), and the line behind it.

    Read record by record, because the csv module would take everything behind an unclosed quotation mark as one
    value: here it costs its own line only.
    """
    if len(lines[start]) > _LONGEST_LINE:
        return f"is longer than {_LONGEST_LINE:,} characters", start + 1
    for end in range(start + 1, min(start + _LONGEST_RECORD_LINES, len(lines)) + 1):
        try:
            cells = next(csv.reader(["\n".join(lines[start:end])], delimiter=separator, strict=True), [])
        except csv.Error:
            continue
        while width is not None and len(cells) > width and not cells[-1].strip():
            cells.pop()
        if width is None or len(cells) == width or (end == start + 1 and len(cells) < width):
            return cells, end
        if end == start + 1:
            return f"has {len(cells)} values for {width} columns: put values that hold {separator!r} in quotes", end
    return "has a quotation mark that is not closed", start + 1


def _lines(text: str) -> list[str]:
    return re.split(r"\r\n|\r|\n", text)


def _field(column: str) -> str | None:
    return _FIELDS.get(re.sub(r"[\s-]+", "_", column.strip().lower()))


def _row(number: int, record: Mapping[str, Any]) -> Row | BadRow:
    values: dict[str, str] = {}
    for column, value in record.items():
        field = _field(column)
        if field is None or field in values:
            continue
        text = _text(value)
        if text is None:
            return BadRow(number, f"{column} must be text")
        if has_unreadable(text):
            return BadRow(number, f"{column} holds unreadable characters: save the file as UTF-8")
        if turns(text):
            return BadRow(number, f"{column} holds characters that turn the direction of text: write it without them")
        if len(text) > _LONGEST_VALUE:
            return BadRow(number, f"{column} is longer than {_LONGEST_VALUE} characters")
        if text:
            values[field] = text
    return Row(number, values)


def _text(value: object) -> str | None:
    if value is None:
        return ""
    if isinstance(value, str | int):  # bool is an int: True and False read as yes and no
        return " ".join(str(value).split())
    return None
