"""What a request may say, as typed records, and how it is read."""

import base64
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin
from urllib.parse import parse_qsl

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from api.media import RowsFormat
from api.problems import Fault, refuse
from db import lines
from db.annotations import LONGEST_NOTE
from db.keyset import After, Order
from db.movers import By, Days
from db.reads import Filters
from db.rows import JobState, Kind, Lane
from db.standing import Status

MOST_PARAMETERS = 50
LONGEST_RANGE_DAYS = 3660
DEFAULT_RANGE_DAYS = 365
FIRST_DATE, LAST_DATE = date(2000, 1, 1), date(2099, 12, 31)

Params = Mapping[str, str]
# Working out the types of a Struct takes longer than all else that is done with a query.
_fields = cache(msgspec.structs.fields)


def one_of(choices: Any) -> str:
    return f"one of {', '.join(map(str, get_args(choices)))}"


# The description completes the sentence "… is not …".
PageNumber = Annotated[int, Meta(ge=1, le=1_000_000_000, description="a page number (from 1)")]
PageSize = Annotated[int, Meta(ge=1, le=500, description="a whole number from 1 to 500")]
LargePageSize = Annotated[int, Meta(ge=1, le=1000, description="a whole number from 1 to 1000")]
Flag = Annotated[Literal["true", "false"], Meta(description="true or false")]
Words = Annotated[str, Meta(min_length=1, max_length=200, description="a text of 1 to 200 characters")]
OneStatus = Annotated[Status, Meta(description=one_of(Status))]
OneFormat = Annotated[RowsFormat, Meta(description=one_of(RowsFormat))]
OneKind = Annotated[Kind, Meta(description=one_of(Kind))]
OneLane = Annotated[Lane, Meta(description=one_of(Lane))]
OneState = Annotated[JobState, Meta(description=one_of(JobState))]
IntervalDays = Annotated[Days, Meta(description=one_of(Days))]
NumberOrPercent = Annotated[By, Meta(description=one_of(By))]
Group = Literal["platform", "org", "day"]
OpenOrAll = Literal["open", "all"]
AlertState = Annotated[OpenOrAll, Meta(description=one_of(OpenOrAll))]
TotalsGroup = Annotated[Group, Meta(description=one_of(Group))]
Step = Literal["day", "week", "month"]
Interval = Annotated[Step, Meta(description=one_of(Step))]
Day = Annotated[
    date,
    Meta(description="a date as YYYY-MM-DD", extra_json_schema={"pattern": "^20[0-9]{2}-[0-9]{2}-[0-9]{2}$"}),
]


class NoQuery(Struct, frozen=True):
    """A request without parameters."""


# What several queries are read alike by; Structs have one base each.
class _Sorted:
    __slots__ = ()
    sort: str

    @property
    def order(self) -> Order:
        return Order(self.sort.removeprefix("-"), descending=self.sort.startswith("-"))


class _OfAccounts:
    __slots__ = ()
    platform: str | None
    org: Words | None
    core: Flag | None
    status: OneStatus | None
    q: Words | None

    @property
    def filters(self) -> Filters:
        core = None if self.core is None else self.core == "true"
        return Filters(platform=self.platform, org=self.org, core=core, status=self.status, text=self.q)


class ObjectQuery(Struct, frozen=True, kw_only=True):
    """What every object may be asked."""

    fields: str | None = None


class RowsQuery(ObjectQuery, frozen=True, kw_only=True):
    """What everything that has rows may be asked."""

    format: OneFormat | None = None


class ListQuery(_Sorted, RowsQuery, frozen=True, kw_only=True):
    """What every list may be asked."""

    sort: str = "account_key"
    page: PageNumber | None = None
    cursor: str | None = None
    per_page: PageSize = 50


class AccountListQuery(_OfAccounts, ListQuery, frozen=True, kw_only=True):
    """What every list of accounts may be asked."""

    platform: str | None = None
    org: Words | None = None
    core: Flag | None = None
    status: OneStatus | None = None
    q: Words | None = None


class PageQuery(_OfAccounts, _Sorted, Struct, frozen=True, kw_only=True):
    """What every page with a list of accounts may be asked."""

    sort: str = "-followers"
    cursor: str | None = None
    platform: str | None = None
    org: Words | None = None
    core: Flag | None = None
    status: OneStatus | None = None
    q: Words | None = None


class AccountsPageQuery(PageQuery, frozen=True, kw_only=True):
    """GET /accounts"""

    page: PageNumber | None = None


class SummaryQuery(AccountListQuery, frozen=True, kw_only=True):
    """GET /api/summary"""

    per_page: LargePageSize = 50


class AccountsQuery(AccountListQuery, frozen=True, kw_only=True):
    """GET /api/accounts"""


class GridQuery(AccountListQuery, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """GET /api/grid"""

    sort: str = "-snapshot_date"
    per_page: LargePageSize = 50
    first: Day | None = None
    last: Day | None = None


class PostsQuery(ListQuery, frozen=True, kw_only=True):
    """GET /api/posts/{platform}/{handle}"""

    sort: str = "-published_at"


class JobsQuery(ListQuery, frozen=True, kw_only=True):
    """GET /api/jobs"""

    sort: str = "-created_at"
    platform: str | None = None
    kind: OneKind | None = None
    lane: OneLane | None = None
    state: OneState | None = None


class MoversQuery(_OfAccounts, RowsQuery, frozen=True, kw_only=True):
    """GET /api/movers"""

    days: IntervalDays = 7
    by: NumberOrPercent = "number"
    per_page: PageSize = 50
    platform: str | None = None
    org: Words | None = None
    core: Flag | None = None
    status: OneStatus | None = None
    q: Words | None = None


class RangeQuery(ObjectQuery, frozen=True, kw_only=True, rename={"first": "from", "last": "to"}):
    """What everything that spans days may be asked."""

    first: Day | None = None
    last: Day | None = None

    def span(self, today: date) -> tuple[date, date]:
        """Return the first and last day asked for. Raises Problem when they are no range, or too long a one."""
        known_range(self.first, self.last)
        last = self.last or today
        first = self.first or max(FIRST_DATE, last - timedelta(days=DEFAULT_RANGE_DAYS - 1))
        known_range(first, last)
        if (last - first).days >= LONGEST_RANGE_DAYS:
            raise refuse(Fault("from", f"{first} to {last} is more than {LONGEST_RANGE_DAYS} days"))
        return first, last


class HistoryQuery(RangeQuery, frozen=True, kw_only=True):
    """GET /api/history/{platform}/{handle}"""

    interval: Interval = "day"


class TotalsQuery(RangeQuery, frozen=True, kw_only=True):
    """GET /api/totals"""

    format: OneFormat | None = None
    group: TotalsGroup = "platform"
    platform: str | None = None
    org: Words | None = None


# `account-name` becomes the pattern of the platforms that there are, where it is described.
AccountName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=300,
        description="an account as platform/handle",
        extra_json_schema={"format": "account-name", "examples": ["x/hhsgov"]},
    ),
]


class RefreshBody(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/refresh"""

    accounts: Annotated[list[AccountName], Meta(min_length=1, max_length=100)]


# All that JSON Schema can say of a line (db/lines.py): `check_lines` refuses other spaces at either end, too.
_INNER = "\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069\\ufffd"
_OUTER = f"\\u0000-\\u0020\\u00a0{_INNER}"
_LINE = {"pattern": f"^[^{_OUTER}]([^\\u0000-\\u001f{_INNER}]*[^{_OUTER}])?$"}
Line = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="a text of one line, of 1 to 200 characters",
        extra_json_schema=_LINE,
    ),
]
NoteText = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=LONGEST_NOTE,
        description="a text that says something",
        extra_json_schema={"pattern": "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$"},
    ),
]


class AccountBody(Struct, frozen=True, forbid_unknown_fields=True):
    """PATCH /api/accounts/{platform}/{handle}: what is left out stays; null takes a name away."""

    is_active: bool | UnsetType = UNSET
    is_core_account: bool | UnsetType = UNSET
    org_name: Line | UnsetType | None = UNSET
    owner_team: Line | UnsetType | None = UNSET


class AlertsQuery(ObjectQuery, frozen=True, kw_only=True):
    """GET /api/alerts"""

    state: AlertState = "open"
    page: PageNumber = 1
    per_page: PageSize = 50


class AnnotationsQuery(ObjectQuery, frozen=True, kw_only=True):
    """GET /api/annotations"""

    page: PageNumber = 1
    per_page: PageSize = 50


class AnnotationBody(
    Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"first": "from", "last": "to"}
):
    """POST /api/annotations: exactly one of `account`, `org` and `all`; without `to` it is on one day."""

    first: Day
    last: Day | None = None
    note: NoteText
    account: AccountName | None = None
    org: Words | None = None
    all: Annotated[Literal[True], Meta(description="every account; exactly one of these three is said")] | None = None


# What is null is as good as absent.
AboutOne = Annotated[
    AnnotationBody,
    Meta(
        examples=[{"from": "2026-03-01", "to": "2026-03-07", "note": "Campaign began", "account": "x/hhsgov"}],
        extra_json_schema={
            "oneOf": [
                {"required": [name], "properties": {name: {"not": {"type": "null"}}}}
                for name in ("account", "org", "all")
            ]
        },
    ),
]


class BatchRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a batch. `id` comes back with its answer."""

    path: Annotated[str, Meta(min_length=1, max_length=4000)]
    method: Annotated[str, Meta(max_length=20)] = "GET"
    id: Annotated[str, Meta(max_length=100)] | None = None


class BatchBody(Struct, frozen=True, forbid_unknown_fields=True):
    """POST /api/batch"""

    requests: Annotated[list[BatchRequest], Meta(min_length=1, max_length=20)]


Query = TypeVar("Query", bound=Struct)
Sorted = TypeVar("Sorted", bound=PageQuery | ListQuery)
Listed = TypeVar("Listed", bound=AccountsPageQuery | ListQuery)


def parameters(query_string: bytes) -> dict[str, str]:
    """Take a query string apart. Raises Problem when it isn't UTF-8, or names a parameter twice or not at all."""
    try:
        pairs = _pairs(query_string.decode())
    except UnicodeDecodeError as exc:
        raise refuse(Fault("query", "is not UTF-8")) from exc
    except ValueError as exc:
        raise refuse(Fault("query", f"has more than {MOST_PARAMETERS} parameters")) from exc
    params: dict[str, str] = {}
    for name, value in pairs:
        if not name:
            raise refuse(Fault("query", f"has a value without a name: {_shown(value)!r}"))
        if name in params:
            raise refuse(Fault(_shown(name), "is given twice"))
        if "\0" in name or "\0" in value:
            raise refuse(Fault(_shown(name), "holds a NUL character"))
        params[name] = value
    return params


def _pairs(text: str) -> list[tuple[str, str]]:
    if "%" in text or "+" in text or text.count("&") >= MOST_PARAMETERS:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
    # Nothing is escaped: several times as fast.
    return [(name, value) for name, _, value in (part.partition("=") for part in text.split("&") if part)]


def filled(params: Params) -> Params:
    """Return the parameters that have a value: a form sends the fields that are left empty, too."""
    return {name: value for name, value in params.items() if value}


def parse(params: Params, query_type: type[Query]) -> Query:
    """Read a query. Raises Problem that names every parameter that is unknown or wrong."""
    known = _known(query_type)
    values: dict[str, Any] = {}
    faults = [Fault(name, "is missing") for name, one in known.items() if one.required and name not in params]
    for name, text in params.items():
        if name not in known:
            faults.append(Fault(_shown(name), f"is not a parameter here; known are {', '.join(known)}"))
            continue
        one = known[name]
        try:
            values[one.name] = msgspec.convert(text, one.type, strict=False)
        except msgspec.ValidationError:
            faults.append(Fault(name, f"{_shown(text)!r} is not {_description(one.type)}"))
    if faults:
        raise refuse(*faults)
    return query_type(**values)


def parse_sorted(params: Params, query_type: type[Sorted], sortable: Sequence[str]) -> Sorted:
    """Read a query with an order: as `parse`, and the list must have the column."""
    query = parse(params, query_type)
    if query.order.column not in sortable:
        known = ", ".join(sortable)
        raise refuse(
            Fault("sort", f"{_shown(query.sort)!r} is not one of {known} (or -name for the other way round)")
        )
    return query


def parse_list(params: Params, query_type: type[Listed], sortable: Sequence[str]) -> Listed:
    """Read the query of a list: as `parse_sorted`, and it says one place to begin."""
    query = parse_sorted(params, query_type, sortable)
    if query.page is not None and query.cursor is not None:
        raise refuse(Fault("cursor", "goes without page: it says itself where it continues"))
    return query


def check_lines(record: Struct) -> None:
    """Raise Problem for what is no line among a record's texts: it could break one of a log or a list in two."""
    texts = {name: value for name, value in msgspec.structs.asdict(record).items() if isinstance(value, str)}
    if faults := [Fault(name, "is not a line of text") for name, text in texts.items() if not _is_line(text)]:
        raise refuse(*faults)


def _is_line(text: str) -> bool:
    return lines.is_line(text) and text == text.strip()


def known_range(first: date | None, last: date | None) -> None:
    """Raise Problem for days that nothing is kept of, and for a range that ends before it begins."""
    for name, day in (("from", first), ("to", last)):
        if day is not None and not FIRST_DATE <= day <= LAST_DATE:
            raise refuse(Fault(name, f"{day} does not lie between {FIRST_DATE} and {LAST_DATE}"))
    if first is not None and last is not None and first > last:
        raise refuse(Fault("from", f"{first} is later than {last}, the end of the range"))


def known_platform(name: str | None, platforms: Mapping[str, object]) -> None:
    """Raise Problem for a platform that doesn't exist."""
    if name is not None and name not in platforms:
        raise refuse(Fault("platform", f"{_shown(name)!r} is not one of {', '.join(platforms)}"))


def chosen_fields(fields: str | None, record: type[Struct]) -> tuple[str, ...] | None:
    """Return the fields asked for, in that order, or None for all. Raises Problem for one that doesn't exist."""
    if fields is None:
        return None
    names = tuple(fields.split(","))
    known = [field.encode_name for field in _fields(record)]
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
    key: msgspec.Raw


def cursor_of(order: Order, after: After) -> str:
    """Write the place behind an item so that a URL can carry it."""
    value, key = (msgspec.Raw(msgspec.json.encode(part)) for part in (after.value, after.key))
    place = _Place(order.column, order.descending, value, key)
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).rstrip(b"=").decode()


def place_of(cursor: str, order: Order, row_type: type[Struct]) -> After:
    """Read what `cursor_of` wrote. Raises Problem for anything else, and for a cursor of another order.

    The first field of a row is its key.
    """
    types = _types(row_type)
    try:
        packed = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        place = msgspec.json.decode(packed, type=_Place)
        value = msgspec.json.decode(place.value, type=types[order.column])
        key = msgspec.json.decode(place.key, type=types[row_type.__struct_fields__[0]])
        if (place.column, place.descending) != (order.column, order.descending) or "\0" in f"{value}{key}":
            raise ValueError("made for another list")
        if isinstance(key, int) and not 0 <= key < 2**63:
            raise ValueError("no key")
        if isinstance(value, datetime):
            value = value.astimezone(UTC)
    except (ValueError, OverflowError) as exc:  # of base64, UTF-8 and JSON too; of times that no calendar has in UTC
        raise refuse(Fault("cursor", "is not one that this list, sorted this way, handed out")) from exc
    return After(value, key)


class _Parameter(NamedTuple):
    name: str
    type: Any
    required: bool


@cache
def _known(query_type: type[Struct]) -> dict[str, _Parameter]:
    """Return the parameters of a query, by their names in an address."""
    return {
        field.encode_name: _Parameter(field.name, _given(field.type), field.required) for field in _fields(query_type)
    }


@cache
def _types(row_type: type[Struct]) -> dict[str, Any]:
    return {field.name: field.type for field in _fields(row_type)}


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
