"""How many of the accounts were read on each day, and why the others weren't: out of counts that are kept.

An account counts from the day on which it was listed, and before it on days that it has a number of (an import, the
demonstration's history). What a day costs follows from the accounts that weren't read on it, never from those that were.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date
from functools import reduce
from operator import add

from msgspec import Struct
from sqlalchemy import ARRAY, Connection, Date, Text, bindparam, text

from db.gaps import NOT_READ, NOT_RUNNING, NOT_TRIED, each_day

NOT_DUE = "not due, or not tried: read every few days"
NOT_DUE_TODAY = "not due today"
# Nobody expects a reading then.
_EXCUSED = ("gone", "paused")


class Coverage(Struct, frozen=True, kw_only=True):
    """One day of some accounts: `read` of them were read; `missed` should have been, `excused` needn't, by the reason.

    `listed` is how many stood in the list by then; what was `read` beyond it has numbers of before.
    """

    listed: int
    read: int
    missed: Mapping[str, int]
    excused: Mapping[str, int]

    @property
    def expected(self) -> int | None:
        """Return how many should have been read; None on a day on which no account was listed."""
        return self.read + sum(self.missed.values()) if self.listed else None

    @property
    def pct(self) -> float | None:
        """Return the part of these that were, in percent; None where there are none."""
        return 100 * self.read / self.expected if self.expected else None

    def __add__(self, other: "Coverage") -> "Coverage":
        return Coverage(
            listed=self.listed + other.listed,
            read=self.read + other.read,
            missed=Counter(self.missed) + Counter(other.missed),
            excused=Counter(self.excused) + Counter(other.excused),
        )


NOTHING = Coverage(listed=0, read=0, missed={}, excused={})
OfDays = Mapping[str, Mapping[date, Coverage]]
"""By platform and day; every day is present."""

_RANGE = (bindparam("first", type_=Date), bindparam("last", type_=Date))
_READ = text("""
    SELECT platform, snapshot_date, snapshots FROM day_count
    WHERE platform = ANY(:platforms) AND org_name = '' AND snapshot_date BETWEEN :first AND :last
""").bindparams(*_RANGE, bindparam("platforms", type_=ARRAY(Text)))
_ADDED_DATE = "(added_at AT TIME ZONE 'UTC')::date"
_LISTED = text(f"""
    SELECT platform, greatest({_ADDED_DATE}, :first), count(*) FROM dim_account GROUP BY 1, 2
""").bindparams(bindparam("first", type_=Date))  # noqa: S608  # the name of a column


def _days_read(account: str, first: str, end: str) -> str:
    """Return a FROM item: the days from `first` to before `end` on which an account was read.

    One look into the primary key's index per account, however the planner reckons: OFFSET 0 keeps it from joining all
    days, rows that are compared whole from the index by day, where each day is a look of its own; the plain range is
    for the partitions.
    """
    return f"""LATERAL (
        SELECT snapshot_date FROM fact_followers_snapshot
        WHERE account_key = {account} AND snapshot_date BETWEEN :first AND :last
            AND (account_key, snapshot_date) >= ({account}, {first}) AND (account_key, snapshot_date) < ({account}, {end})
        OFFSET 0
    ) AS was_read"""  # noqa: S608  # names of columns


_EARLY = text(f"""
    SELECT platform, snapshot_date, count(*)
    FROM dim_account CROSS JOIN {_days_read("dim_account.account_key", "CAST(:first AS date)", _ADDED_DATE)}
    WHERE {_ADDED_DATE} > :first
    GROUP BY platform, snapshot_date
""").bindparams(*_RANGE)  # noqa: S608  # the parts above
_UNREAD = text(f"""
    WITH unread AS MATERIALIZED (
        SELECT account_key, platform, result, concat_ws(': ', result, reason) AS why,
            greatest(from_date, :first) AS first, least(coalesce(to_date, :last), :last) AS last
        FROM account_gap JOIN dim_account USING (account_key)
        WHERE from_date <= :last AND (to_date >= :first OR to_date IS NULL)
    )
    SELECT platform, result, why, first, last, count(*) FROM unread GROUP BY platform, result, why, first, last
    UNION ALL
    SELECT platform, result, why, snapshot_date, snapshot_date, -count(*)
    FROM unread CROSS JOIN {_days_read("unread.account_key", "unread.first", "unread.last + 1")}
    GROUP BY platform, result, why, snapshot_date
""").bindparams(*_RANGE)  # noqa: S608  # the parts above


def by_day(
    conn: Connection,
    platforms: Collection[str],
    first: date,
    last: date,
    *,
    seldom: Mapping[str, int],
    today: Mapping[str, tuple[int, int]],
) -> OfDays:
    """Return how these platforms were read on each day; `last` is today.

    `seldom` counts the accounts of a platform that are read less often than daily: so many of those that weren't tried
    on a day are taken not to have been due. `today` are those expected and those read today, as they stand now.
    """
    span = {"first": first, "last": last}
    read = _counted(conn.execute(_READ, span | {"platforms": list(platforms)}))
    listed = _added_up(conn.execute(_LISTED, {"first": first}), list(each_day(first, last)))
    early = _before_listing(conn, read, listed, first, last)
    unread = _unread(conn, first, last)
    days = list(each_day(first, last))
    busy = {day for day in days if any(read[name, day] for name in platforms)}

    def of(name: str, day: date) -> Coverage:
        known = unread.get((name, day), Counter())
        is_today = day == last
        expected, was_read = today.get(name, (0, 0)) if is_today else (0, read[name, day])
        missed = {why: number for (result, why), number in known.items() if result not in _EXCUSED}
        excused = {why: number for (result, why), number in known.items() if result in _EXCUSED}
        left = max(0, listed[name, day] + early[name, day] - was_read - sum(known.values()))
        if is_today:
            untried = min(left, max(0, expected - was_read - sum(missed.values())))
            why, excuse = NOT_READ, NOT_DUE_TODAY
        else:
            untried = max(0, left - seldom.get(name, 0))
            why, excuse = NOT_TRIED if day in busy else NOT_RUNNING, NOT_DUE
        return Coverage(
            listed=listed[name, day],
            read=was_read,
            missed=+Counter({**missed, why: untried}),
            excused=+Counter({**excused, excuse: left - untried}),
        )

    return {name: {day: of(name, day) for day in days} for name in platforms}


def together(parts: Iterable[Coverage]) -> Coverage:
    """Return what several platforms make together on a day."""
    return reduce(add, parts, NOTHING)


Counts = Counter[tuple[str, date]]


def _counted(rows: Iterable[Sequence[object]]) -> Counts:
    return Counter({(row[0], row[1]): row[2] for row in rows})  # type: ignore[misc]  # as the columns are


def _added_up(rows: Iterable[Sequence[object]], days: Sequence[date]) -> Counts:
    """Return how many accounts each platform had by the end of a day, out of how many came on each."""
    came = _counted(rows)
    found = Counts()
    for name in {platform for platform, _ in came}:
        standing = 0
        for day in days:
            standing += came[name, day]
            found[name, day] = standing
    return found


def _before_listing(conn: Connection, read: Counts, listed: Counts, first: date, last: date) -> Counts:
    """Return how many accounts have a number of a day on which they weren't listed yet.

    Where no account of any platform was, those are all; else it is asked of the accounts that came later.
    """
    begun = min((day for (_, day), number in listed.items() if number), default=None)
    early = Counts({key: number for key, number in read.items() if begun is None or key[1] < begun})
    if begun is not None:
        early |= _counted(conn.execute(_EARLY, {"first": max(first, begun), "last": last}))
    return early


def _unread(conn: Connection, first: date, last: date) -> Mapping[tuple[str, date], Counter[tuple[str, str]]]:
    """Return the accounts that weren't read by platform and day, of each how many for which result and reason."""
    found: dict[tuple[str, date], Counter[tuple[str, str]]] = {}
    for platform, result, why, begin, end, accounts in conn.execute(_UNREAD, {"first": first, "last": last}):
        for day in each_day(begin, end):
            found.setdefault((platform, day), Counter())[result, why] += accounts
    return {key: +counts for key, counts in found.items()}
