"""What every process counts: added up by series (a metric and its labels), minute and hour, each message once.

A series is added to for good in `metric_series`, so what it shows never falls; minutes and hours are kept for a time.
Which messages have been counted is known by their sender and number, as ranges: a message that comes again, however
often and late, changes nothing.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Float,
    Interval,
    Select,
    Subquery,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    literal_column,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, aggregate_order_by, array, insert
from sqlalchemy.types import NullType

from db.models import UTC, metric_hour, metric_minute, metric_sender, metric_series
from db.recordset import as_json, recordset

# Upper bounds, in seconds, of the classes by which times are counted: six to a decade from 10 µs to 100 s, and one class
# for what took longer. They stand in rows that are kept for good: other bounds need other names of metrics.
BOUNDS: tuple[float, ...] = (
    *(float(f"{step}e{decade}") for decade in range(-5, 2) for step in (1, 1.5, 2.2, 3.3, 4.7, 6.8)),
    100.0,
)
CLASSES = len(BOUNDS) + 1
# A process says how it stands every few seconds: one that has been silent for so long is no more.
SILENT_S = 30

# Exact as a float, too.
_MOST = 2**53
# No longer than the index of series takes.
Name = Annotated[str, Meta(max_length=200)]
Labels = Annotated[tuple[Name, ...], Meta(max_length=10)]
# name, values of its labels
Named = tuple[str, tuple[str, ...]]


class Sample(Struct, frozen=True, array_like=True):
    """What a series gained: a number of things, or, of what is timed, seconds, and how many times fell into each class.

    There are `CLASSES` of these. As a gauge, `value` is how things stand.
    """

    name: Name
    labels: Labels
    value: float
    buckets: tuple[Annotated[int, Meta(ge=0, lt=_MOST)], ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what would make a sum fall or be no number; a message is checked before anything is done with it."""
        if not 0 <= self.value < _MOST or (self.buckets is not None and len(self.buckets) != CLASSES):
            raise ValueError(f"{self.name} can't have gained {self.value} and these classes")


class Counted(Struct, frozen=True, kw_only=True):
    """One message: what a process counted in the minute of `at`. `number` counts its messages from 1."""

    sender: Name
    role: Name
    number: Annotated[int, Meta(ge=1, lt=_MOST)]
    at: Annotated[datetime, Meta(tz=True)]
    samples: tuple[Sample, ...]
    gauges: tuple[Sample, ...] = ()


class Process(Struct, frozen=True):
    """A process that was heard of lately, and how it stood then."""

    role: str
    gauges: tuple[Sample, ...]


class _Sum:
    """A sum under way: seconds or a number, and times by class."""

    __slots__ = ("buckets", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.buckets: list[int] | None = None

    def add(self, value: float, buckets: Sequence[int] | None) -> None:
        self.value += value
        if buckets is None:
            return
        if self.buckets is None:
            self.buckets = list(buckets)
        else:
            self.buckets = [mine + more for mine, more in zip(self.buckets, buckets, strict=True)]


_SAID = recordset("senders", sender=Text, role=Text, at=UTC, gauges=JSONB)
_LOCK = insert(metric_sender).from_select(
    ["sender", "role", "seen", "newest_at", "gauges"],
    select(_SAID.c.sender, _SAID.c.role, literal_column("'{}'::int8multirange"), _SAID.c.at, _SAID.c.gauges)
    # In one order, so that two recorders wait for each other instead of dying of it.
    .order_by(_SAID.c.sender),
)
_is_newer = _LOCK.excluded.newest_at >= metric_sender.c.newest_at
_LOCK_SENDERS = _LOCK.on_conflict_do_update(
    index_elements=[metric_sender.c.sender],
    set_={
        "newest_at": func.greatest(metric_sender.c.newest_at, _LOCK.excluded.newest_at),
        # What comes late doesn't say how things stand.
        "gauges": case((_is_newer, _LOCK.excluded.gauges), else_=metric_sender.c.gauges),
    },
)
_GIVEN = recordset("numbers", sender=Text, number=BigInteger)
_number = func.int8range(_GIVEN.c.number, _GIVEN.c.number, "[]")
_is_seen = metric_sender.c.seen.op("@>", is_comparison=True)(_GIVEN.c.number)
_FRESH = (
    select(_GIVEN.c.sender, _GIVEN.c.number)
    .join(metric_sender, metric_sender.c.sender == _GIVEN.c.sender)
    .where(~_is_seen)
)
_MISSING = (
    select(_GIVEN.c.number)
    .outerjoin(metric_sender, metric_sender.c.sender == _GIVEN.c.sender)
    .where(func.coalesce(_is_seen, false()).is_(false()))
)
_news = select(_GIVEN.c.sender, func.range_agg(_number).label("numbers")).group_by(_GIVEN.c.sender).subquery("news")
_MARK = (
    metric_sender.update()
    .where(metric_sender.c.sender == _news.c.sender)
    .values(seen=metric_sender.c.seen.op("+")(_news.c.numbers))
)
_ROWS = recordset("sums", at=UTC, metric=Text, labels=ARRAY(Text), total=Float, buckets=ARRAY(BigInteger))


def _with_sums(statement: Insert, table: Table) -> dict[str, ColumnElement[Any]]:
    """Add to what stands there, class by class; what isn't timed has no classes."""
    new = statement.excluded
    both = func.unnest(table.c.buckets, new.buckets).table_valued("mine", "more", with_ordinality="place")
    pair = both.render_derived("pair")
    sums = func.coalesce(pair.c.mine, 0) + func.coalesce(pair.c.more, 0)
    buckets = select(func.array_agg(aggregate_order_by(sums, pair.c.place))).scalar_subquery()
    return {"total": table.c.total + new.total, "buckets": buckets}


_columns = ["name", "labels", "since", "total", "buckets"]
_SERIES = insert(metric_series).from_select(
    _columns,
    select(_ROWS.c.metric, _ROWS.c.labels, _ROWS.c.at, _ROWS.c.total, _ROWS.c.buckets).order_by(
        _ROWS.c.metric, _ROWS.c.labels
    ),
)
_ADD_SERIES = _SERIES.on_conflict_do_update(
    index_elements=[metric_series.c.name, metric_series.c.labels],
    set_=_with_sums(_SERIES, metric_series) | {"since": func.least(metric_series.c.since, _SERIES.excluded.since)},
)


def _add_to(table: Table) -> Insert:
    statement = insert(table).from_select(
        ["at", "series_id", "total", "buckets"],
        select(_ROWS.c.at, metric_series.c.series_id, _ROWS.c.total, _ROWS.c.buckets)
        .join(metric_series, and_(metric_series.c.name == _ROWS.c.metric, metric_series.c.labels == _ROWS.c.labels))
        .order_by(_ROWS.c.at, metric_series.c.series_id),
    )
    return statement.on_conflict_do_update(
        index_elements=[table.c.at, table.c.series_id], set_=_with_sums(statement, table)
    )


_ADD_MINUTES = _add_to(metric_minute)
_ADD_HOURS = _add_to(metric_hour)


def add(conn: Connection, messages: Sequence[Counted], *, oldest: datetime) -> None:
    """Add what these messages counted, each in its own minute, where they have not been counted before.

    What is older than `oldest`, up to which metrics are pruned, is left out: nobody knows whether it was counted.
    """
    by_number = {(one.sender, one.number): one for one in messages}
    if not by_number:
        return
    newest = {one.sender: one for one in sorted(by_number.values(), key=lambda one: one.number)}
    said = [{name: getattr(one, name) for name in ("sender", "role", "at", "gauges")} for one in newest.values()]
    conn.execute(_LOCK_SENDERS, {"senders": as_json(said)})
    numbers = [{"sender": sender, "number": number} for sender, number in by_number]
    # A statement of its own after the lock: what another recorder has committed until then is seen.
    fresh = [by_number[row.sender, row.number] for row in conn.execute(_FRESH, {"numbers": as_json(numbers)})]
    conn.execute(_MARK, {"numbers": as_json({"sender": one.sender, "number": one.number} for one in fresh)})
    _add_samples(conn, (one for one in fresh if one.at > oldest))


def missing(conn: Connection, sender: str, numbers: Collection[int]) -> frozenset[int]:
    """Return which of a sender's messages have not been counted (yet)."""
    given = {"numbers": as_json({"sender": sender, "number": number} for number in numbers)}
    return frozenset(conn.scalars(_MISSING, given))


def _add_samples(conn: Connection, messages: Iterable[Counted]) -> None:
    minutes: defaultdict[tuple[datetime, Named], _Sum] = defaultdict(_Sum)
    for message in messages:
        minute = message.at.replace(second=0, microsecond=0)
        for name, labels, value, buckets in map(_parts, message.samples):
            minutes[minute, (name, labels)].add(value, buckets)
    hours: defaultdict[tuple[datetime, Named], _Sum] = defaultdict(_Sum)
    series: defaultdict[Named, _Sum] = defaultdict(_Sum)
    since: dict[Named, datetime] = {}
    for (minute, named), one in minutes.items():
        hours[minute.replace(minute=0), named].add(one.value, one.buckets)
        series[named].add(one.value, one.buckets)
        since[named] = min(minute, since.get(named, minute))
    if not series:
        return
    conn.execute(_ADD_SERIES, {"sums": as_json(_row(since[named], named, one) for named, one in series.items())})
    conn.execute(_ADD_MINUTES, {"sums": as_json(_row(at, named, one) for (at, named), one in minutes.items())})
    conn.execute(_ADD_HOURS, {"sums": as_json(_row(at, named, one) for (at, named), one in hours.items())})


def _parts(sample: Sample) -> tuple[str, tuple[str, ...], float, tuple[int, ...] | None]:
    return sample.name, sample.labels, sample.value, sample.buckets


def _row(at: datetime, named: Named, one: _Sum) -> Mapping[str, Any]:
    return {"at": at, "metric": named[0], "labels": named[1], "total": one.value, "buckets": one.buckets}


# Lists as the driver makes them: SQLAlchemy would copy each, which takes as long as all else that is done with a row.
_COLUMNS = (metric_series.c.name, type_coerce(metric_series.c.labels, NullType()))
_TOTALS = select(*_COLUMNS, metric_series.c.total, type_coerce(metric_series.c.buckets, NullType())).order_by(
    metric_series.c.name, metric_series.c.labels
)
_SINCE = select(func.min(metric_series.c.since))


def since(conn: Connection) -> datetime | None:
    """Return the first minute of the record; None while nothing has been counted."""
    found: datetime | None = conn.scalar(_SINCE)
    return found


def totals(conn: Connection) -> list[Sample]:
    """Return what was counted since the record began, in the order of names and labels."""
    return _samples(conn.execute(_TOTALS))


# rollups, which of them, and by which sign each counts
_Part = tuple[Table, ColumnElement[bool], ColumnElement[Any]]
_FIRST_HOUR = bindparam("first_hour", type_=UTC)
_FIRST_MINUTE = bindparam("first_minute", type_=UTC)
_BEFORE_MINUTE = bindparam("before_minute", type_=UTC)
_HOURS: _Part = (metric_hour, metric_hour.c.at >= _FIRST_HOUR, literal_column("1"))
_MINUTES: _Part = (
    metric_minute,
    and_(metric_minute.c.at >= _FIRST_MINUTE, metric_minute.c.at < _BEFORE_MINUTE),
    bindparam("sign", type_=BigInteger),
)


# Of the few series that are timed, named to the index: it skips what lies between them.
_TIMED = func.array(select(metric_series.c.series_id).where(metric_series.c.buckets.is_not(None)).scalar_subquery())


def _rows(column: str, *of: Callable[[Table], ColumnElement[bool]]) -> Subquery:
    """Build the rollups with this column, each with its sign: 1, or -1 where it is taken off; `of` says of which series.

    The limit, which nothing reaches, keeps PostgreSQL from starting processes to share the work: that takes longer than
    the work.
    """
    of_parts = (
        select(t.c.series_id, t.c[column], cast(sign, BigInteger).label("sign")).where(
            when, *(which(t) for which in of)
        )
        for t, when, sign in (_MINUTES, _HOURS)
    )
    return union_all(*of_parts).limit(2**31).subquery()


def _summed() -> Select[Any]:
    """Build the sum of rollups by series.

    Class by class, since to take the arrays apart would cost twice as much; and apart from the rest, since most series
    are only counted: adding up classes that they don't have would be nearly all of the work.
    """
    totals = _rows("total")
    buckets = _rows("buckets", lambda t: t.c.series_id == any_(_TIMED), lambda t: t.c.buckets.is_not(None))
    # Seconds that were all taken off may leave some 1e-16 behind, on either side of 0.
    total = func.greatest(func.sum(totals.c.sign * totals.c.total), 0).label("total")
    places: list[ColumnElement[Any]] = [literal_column(str(place)) for place in range(1, CLASSES + 1)]
    classes = array([func.sum(buckets.c.sign * buckets.c.buckets[place]) for place in places])
    by_class = cast(classes, ARRAY(BigInteger)).label("buckets")
    counted = select(totals.c.series_id, total).group_by(totals.c.series_id).subquery("counted")
    timed = select(buckets.c.series_id, by_class).group_by(buckets.c.series_id).subquery("timed")
    return (
        select(*_COLUMNS, counted.c.total, type_coerce(timed.c.buckets, NullType()))
        .join(counted, counted.c.series_id == metric_series.c.series_id)
        .outerjoin(timed, timed.c.series_id == metric_series.c.series_id)
    )


_LATELY = _summed()
_AN_HOUR = timedelta(hours=1)


def lately(conn: Connection, begin: datetime) -> list[Sample]:
    """Return what was counted since a full minute, of the series that gained anything.

    Whole hours are read, and minutes of the first one only: those since `begin`, or the ones before it to be taken off
    again, whichever are fewer.
    """
    begin = begin.replace(second=0, microsecond=0)
    hour = begin.replace(minute=0)
    next_hour = hour + _AN_HOUR
    if begin - hour < min(next_hour, datetime.now(begin.tzinfo)) - begin:
        read = {"first_hour": hour, "first_minute": hour, "before_minute": begin, "sign": -1}
    else:
        read = {"first_hour": next_hour, "first_minute": begin, "before_minute": next_hour, "sign": 1}
    found = _samples(conn.execute(_LATELY, read))
    return [one for one in found if (one.value if one.buckets is None else any(one.buckets))]


class Point(Struct, frozen=True):
    """What a metric gained in the minute or hour that begins `at`: of all series that have this value of a label."""

    at: datetime
    name: str
    label: str
    value: float
    buckets: tuple[int, ...]


_BEGIN = bindparam("begin", type_=UTC)
_WANTED = func.unnest(bindparam("names", type_=ARRAY(Text)), bindparam("places", type_=ARRAY(BigInteger)))


def _over_time(table: Table) -> Select[Any]:
    wanted = _WANTED.table_valued("name", "place").render_derived("wanted")
    label = func.coalesce(metric_series.c.labels[wanted.c.place], "").label("label")
    classes = [func.coalesce(func.sum(table.c.buckets[place]), 0) for place in range(1, CLASSES + 1)]
    return (
        select(
            table.c.at, metric_series.c.name, label, func.sum(table.c.total), cast(array(classes), ARRAY(BigInteger))
        )
        .join(metric_series, metric_series.c.series_id == table.c.series_id)
        .join(wanted, wanted.c.name == metric_series.c.name)
        .where(table.c.at >= _BEGIN)
        .group_by(table.c.at, metric_series.c.name, label)
    )


_OVER_TIME = {"minute": _over_time(metric_minute), "hour": _over_time(metric_hour)}


def over_time(
    conn: Connection, width: Literal["minute", "hour"], begin: datetime, wanted: Mapping[str, int]
) -> list[Point]:
    """Return what each minute or hour from `begin` on gained of these metrics (by name), summed over their series.

    The number of a metric is the place of the label (from 1) by whose values it is parted; 0: not at all.
    """
    asked = {"begin": begin, "names": list(wanted), "places": list(wanted.values())}
    rows = conn.execute(_OVER_TIME[width], asked)
    return [Point(at, name, label, total, tuple(buckets)) for at, name, label, total, buckets in rows]


def _samples(rows: Iterable[Any]) -> list[Sample]:
    return [
        Sample(name, tuple(labels), total, None if buckets is None else tuple(buckets))
        for name, labels, total, buckets in rows
    ]


_LIVE = select(metric_sender.c.role, metric_sender.c.gauges).where(
    metric_sender.c.newest_at > func.now() - bindparam("silent", type_=Interval)
)


def processes(conn: Connection) -> list[Process]:
    """Return the processes that said how they stand in the last `SILENT_S`."""
    rows = conn.execute(_LIVE, {"silent": timedelta(seconds=SILENT_S)})
    return [Process(role, msgspec.convert(gauges, tuple[Sample, ...])) for role, gauges in rows]


_BEFORE = bindparam("before", type_=UTC)
_RECORDED_AT = select(func.max(metric_sender.c.newest_at))


def recorded_at(conn: Connection) -> datetime | None:
    """Return the time of the newest message that was recorded; None before the first."""
    found: datetime | None = conn.scalar(_RECORDED_AT)
    return found


_PRUNE = (
    delete(metric_minute).where(metric_minute.c.at < _BEFORE),
    delete(metric_hour).where(metric_hour.c.at < _BEFORE),
    delete(metric_sender).where(metric_sender.c.newest_at < _BEFORE),
)


def prune(conn: Connection, *, before: datetime) -> None:
    """Forget the minutes, hours and senders before the hour of then. What was counted in all stays.

    No hour is cut: what is left of its minutes would not be what it has.
    """
    for statement in _PRUNE:
        conn.execute(statement, {"before": before.replace(minute=0, second=0, microsecond=0)})


def clear(conn: Connection) -> int:
    """Remove all that was counted; return the number of series. Who sent what stays known: nothing counts twice."""
    for table in (metric_minute, metric_hour):
        conn.execute(delete(table))
    return conn.execute(delete(metric_series)).rowcount
