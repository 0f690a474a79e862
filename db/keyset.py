"""A part of a list in any order: the first rows, those behind an offset, or those behind a row, whatever the depth.

Rows with equal values in the order's column stand by their key, which tells every row from every other.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from sqlalchemy import Column, ColumnElement, Select, and_, literal, or_


class Order(Struct, frozen=True):
    """By which column a list is sorted; unknown values come last either way."""

    column: str = "account_key"
    descending: bool = False


class After(Struct, frozen=True):
    """The place behind one row of a list: its value in the order's column, and its key."""

    value: Any
    key: Any


class Window(Struct, frozen=True, kw_only=True):
    """Which part of a list to return: behind a row whatever the depth, or by offset."""

    limit: int
    offset: int = 0
    after: After | None = None


class Part(Struct, frozen=True):
    """A part of a list, of each row the fields asked for. `after` leads behind its last row; None at the list's end."""

    rows: Sequence[Sequence[Any]]
    after: After | None


def placed(names: Sequence[str], order: Order, key: str) -> tuple[str, ...]:
    """Return the fields to select: those asked for, and behind them what else a place needs."""
    return tuple(dict.fromkeys((*names, order.column, key)))


def part(rows: Sequence[Sequence[Any]], names: Sequence[str], order: Order, key: str, limit: int) -> Part:
    """Return what was asked for of rows that were selected as `placed` says, one more than the limit where there are."""
    selected = placed(names, order, key)
    last = rows[limit - 1] if len(rows) > limit else None
    after = After(last[selected.index(order.column)], last[selected.index(key)]) if last else None
    shown = rows[:limit]
    return Part([row[: len(names)] for row in shown] if len(selected) > len(names) else shown, after)


def order_by(column: ColumnElement[Any], key: ColumnElement[Any], *, descending: bool) -> list[ColumnElement[Any]]:
    """Return the order as an index can give it."""
    directed = column.desc() if descending else column.asc()
    if column is key:
        return [directed]
    return [directed.nulls_last() if _may_be_null(column, key) else directed, key.asc()]


def window_of(
    query: Select[Any], column: ColumnElement[Any], key: ColumnElement[Any], order: Order, window: Window
) -> Select[Any]:
    """Return the query for a part of a list's rows, one more than its limit where there are."""
    if (after := window.after) is not None:
        value = None if after.value is None else literal(after.value, column.type)
        of_key = literal(after.key, key.type)
        query = query.where(behind(column, key, descending=order.descending, value=value, of_key=of_key))
    ordered = query.order_by(*order_by(column, key, descending=order.descending))
    return ordered.limit(window.limit + 1).offset(window.offset)


def behind(
    column: ColumnElement[Any],
    key: ColumnElement[Any],
    *,
    descending: bool,
    value: ColumnElement[Any] | None,
    of_key: ColumnElement[Any],
) -> ColumnElement[bool]:
    """Return the condition of the rows that follow the one with this value and key; a value of None is an unknown one."""
    if column is key:
        return key < of_key if descending else key > of_key
    if value is None:
        return and_(column.is_(None), key > of_key)
    further, bound = (column < value, column <= value) if descending else (column > value, column >= value)
    # The bound follows from the rest, but an index is entered by it alone.
    known = and_(bound, or_(further, key > of_key))
    return or_(known, column.is_(None)) if _may_be_null(column, key) else known


def _may_be_null(column: ColumnElement[Any], key: ColumnElement[Any]) -> bool:
    """Say whether a value may be unknown: of another table than the key's it may be missing altogether."""
    assert isinstance(key, Column)
    return not isinstance(column, Column) or column.table is not key.table or bool(column.nullable)
