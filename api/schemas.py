"""What a request may say, as typed records, and how it is read."""

import base64
from collections.abc import Mapping
from datetime import date, timedelta
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import Meta, Struct

from api.problems import Fault, refuse
from db.reads import SORTABLE, After, Filters, ListName, Order
from db.standing import Status

MOST_PARAMETERS = 50
LONGEST_RANGE_DAYS = 3660
DEFAULT_RANGE_DAYS = 365
FIRST_DATE, LAST_DATE = date(2000, 1, 1), date(2099, 12, 31)

Params = Mapping[str, str]
# The description completes the sentence "… is not …".
PageNumber = Annotated[int, Meta(ge=1, le=1_000_000_000, description="a page number (from 1)")]
SummaryPageSize = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
AccountsPageSize = Annotated[int, Meta(ge=1, le=500, description="a whole number from 1 to 500")]
Flag = Annotated[Literal["true", "false"], Meta(description="true or false")]
Words = Annotated[str, Meta(min_length=1, max_length=200, description="a text of 1 to 200 characters")]
OneStatus = Annotated[Status, Meta(description=f"one of {', '.join(get_args(Status))}")]
Interval = Annotated[Literal["day", "week", "month"], Meta(description="one of day, week, month")]
Day = Annotated[date, Meta(description="a date as YYYY-MM-DD")]


class ObjectQuery(Struct, frozen=True, kw_only=True):
    """What every object may be asked."""

    fields: str | None = None


class SortedQuery(Struct, frozen=True, kw_only=True):
    """What everything that stands in an order may be asked."""

    sort: str = "account_key"

    @property
    def order(self) -> Order:
        return Order(self.sort.removeprefix("-"), descending=self.sort.startswith("-"))


class PageQuery(SortedQuery, frozen=True, kw_only=True):
    """GET /"""

    sort: str = "-followers"
    page: PageNumber = 1


class ListQuery(SortedQuery, frozen=True, kw_only=True):
    """What every list of accounts may be asked."""

    fields: str | None = None
    page: PageNumber | None = None
    cursor: str | None = None
    platform: str | None = None
    org: Words | None = None
    core: Flag | None = None
    status: OneStatus | None = None
    q: Words | None = None

    @property
    def filters(self) -> Filters:
        core = None if self.core is None else self.core == "true"
        return Filters(platform=self.platform, org=self.org, core=core, status=self.status, text=self.q)


class SummaryQuery(ListQuery, frozen=True, kw_only=True):
    """GET /api/summary"""

    per_page: SummaryPageSize = 50


class AccountsQuery(ListQuery, frozen=True, kw_only=True):
    """GET /api/accounts"""

    per_page: AccountsPageSize = 50


class HistoryQuery(ObjectQuery, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """GET /api/history/{platform}/{handle}"""

    first: Day | None = None
    last: Day | None = None
    interval: Interval = "day"

    def span(self, today: date) -> tuple[date, date]:
        """Return the first and last day asked for. Raises Problem when they are no range, or too long a one."""
        for name, day in (("from", self.first), ("to", self.last)):
            if day is not None and not FIRST_DATE <= day <= LAST_DATE:
                raise refuse(Fault(name, f"{day} does not lie between {FIRST_DATE} and {LAST_DATE}"))
        last = self.last or today
        first = self.first or max(FIRST_DATE, last - timedelta(days=DEFAULT_RANGE_DAYS - 1))
        if first > last:
            raise refuse(Fault("from", f"{first} is later than {last}, the end of the range"))
        if (last - first).days >= LONGEST_RANGE_DAYS:
            raise refuse(Fault("from", f"{first} to {last} is more than {LONGEST_RANGE_DAYS} days"))
        return first, last


class RefreshBody(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/refresh"""

    accounts: Annotated[list[Annotated[str, Meta(min_length=1, max_length=300)]], Meta(min_length=1, max_length=100)]


Query = TypeVar("Query", bound=Struct)
Sorted = TypeVar("Sorted", bound=SortedQuery)
Listed = TypeVar("Listed", bound=ListQuery)


def parameters(query_string: bytes) -> dict[str, str]:
    """Take a query string apart. Raises Problem when it isn't UTF-8 or names a parameter twice."""
    try:
        pairs = parse_qsl(
            query_string.decode(), keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS
        )
    except UnicodeDecodeError as exc:
        raise refuse(Fault("query", "is not UTF-8")) from exc
    except ValueError as exc:
        raise refuse(Fault("query", f"has more than {MOST_PARAMETERS} parameters")) from exc
    params: dict[str, str] = {}
    for name, value in pairs:
        if name in params:
            raise refuse(Fault(_shown(name), "is given twice"))
        if "\0" in name or "\0" in value:
            raise refuse(Fault(_shown(name), "holds a NUL character"))
        params[name] = value
    return params


def parse(params: Params, query_type: type[Query]) -> Query:
    """Read a query. Raises Problem that names every parameter that is unknown or wrong."""
    known = {field.encode_name: field for field in msgspec.structs.fields(query_type)}
    values: dict[str, Any] = {}
    faults = []
    for name, text in params.items():
        if name not in known:
            faults.append(Fault(_shown(name), f"is not a parameter here; known are {', '.join(known)}"))
            continue
        wanted = _given(known[name].type)
        try:
            values[known[name].name] = msgspec.convert(text, wanted, strict=False)
        except msgspec.ValidationError:
            faults.append(Fault(name, f"{_shown(text)!r} is not {_description(wanted)}"))
    if faults:
        raise refuse(*faults)
    return query_type(**values)


def parse_sorted(params: Params, query_type: type[Sorted], of: ListName) -> Sorted:
    """Read a query with an order: as `parse`, and the list must have the column."""
    query = parse(params, query_type)
    if query.order.column not in SORTABLE[of]:
        known = ", ".join(SORTABLE[of])
        raise refuse(
            Fault("sort", f"{_shown(query.sort)!r} is not one of {known} (or -name for the other way round)")
        )
    return query


def parse_list(params: Params, query_type: type[Listed], of: ListName, platforms: Mapping[str, object]) -> Listed:
    """Read the query of a list: as `parse_sorted`, the platform must exist, and it says one place to begin."""
    query = parse_sorted(params, query_type, of)
    if query.platform is not None and query.platform not in platforms:
        raise refuse(Fault("platform", f"{_shown(query.platform)!r} is not one of {', '.join(platforms)}"))
    if query.page is not None and query.cursor is not None:
        raise refuse(Fault("cursor", "goes without page: it says itself where it continues"))
    return query


def chosen_fields(fields: str | None, record: type[Struct]) -> tuple[str, ...] | None:
    """Return the fields asked for, in that order, or None for all. Raises Problem for one that doesn't exist."""
    if fields is None:
        return None
    names = tuple(fields.split(","))
    known = [field.encode_name for field in msgspec.structs.fields(record)]
    faults = [
        Fault("fields", f"{_shown(name)!r} is not one of {', '.join(known)}") for name in names if name not in known
    ]
    if len(set(names)) < len(names):
        faults.append(Fault("fields", "names a field twice"))
    if faults:
        raise refuse(*faults)
    return names


class _Place(Struct, array_like=True, frozen=True):
    """What a cursor holds: the order it belongs to, and the item that the list continues behind."""

    column: str
    descending: bool
    value: msgspec.Raw
    account_key: Annotated[int, Meta(ge=0, le=2**63 - 1)]


def cursor_of(order: Order, after: After) -> str:
    """Write the place behind an item so that a URL can carry it."""
    value = msgspec.Raw(msgspec.json.encode(after.value))
    place = _Place(order.column, order.descending, value, after.account_key)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def place_of(cursor: str, order: Order, row_type: type[Struct]) -> After:
    """Read what `cursor_of` wrote. Raises Problem for anything else, and for a cursor of another order."""
    types = {field.name: field.type for field in msgspec.structs.fields(row_type)}
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(packed, type=_Place)
        value = msgspec.json.decode(place.value, type=types[order.column])
        if (place.column, place.descending) != (order.column, order.descending) or "\0" in str(value):
            raise ValueError("made for another list")
    except ValueError as exc:  # of base64, UTF-8 and JSON too
        raise refuse(Fault("cursor", "is not one that this list, sorted this way, handed out")) from exc
    return After(value, place.account_key)


def _given(annotation: Any) -> Any:
    """Return an optional parameter's type without None: the text `null` is a text."""
    if get_origin(annotation) in (Union, UnionType):
        return Union[tuple(part for part in get_args(annotation) if part is not NoneType)]  # noqa: UP007
    return annotation


def _description(annotation: Any) -> str:
    return next((part.description for part in getattr(annotation, "__metadata__", ()) if part.description), "a text")


def _shown(text: str) -> str:
    """Return what a client sent, short enough to be said back."""
    return text if len(text) <= 80 else text[:79] + "…"
