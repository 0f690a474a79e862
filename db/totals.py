"""Followers added up: how many accounts each figure covers, and changes between the same accounts only.

An account counts on a day with its newest accepted number of that day or of the six before it; later than that, or
where the newest reading has no number, it is absent, never zero (docs/data.md). So one day on which a platform is down
makes no dip, and an account that was given up doesn't count for ever.

The days that are over are added up once, into day_total. Triggers of the tables remove from there what changes
afterwards, whoever changes it; a day that isn't there is added up from the snapshots.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import groupby
from typing import Any, Literal, get_args

from msgspec import Struct
from sqlalchemy import ARRAY, Connection, Date, Engine, Text, TextClause, bindparam, text

from db import derived
from db.engine import transaction
from db.gaps import each_day

CARRIED_DAYS = 6
"""For how many days after its reading a number still counts. The triggers of migration 0006 know it, too."""

Group = Literal["platform", "org_name"]

_RANGE = (bindparam("first", type_=Date), bindparam("last", type_=Date))
_FILTERS = (bindparam("of_platform", type_=Text), bindparam("of_org", type_=Text))


class Which(Struct, frozen=True, kw_only=True):
    """Whose followers are added up; None lets all pass."""

    platform: str | None = None
    org: str | None = None


class Total(Struct, frozen=True, kw_only=True):
    """The followers of `accounts` accounts, `carried` of them with the number of an earlier day; None without any.

    `delta` is the change of those `compared` accounts that count at both ends; None where there are none.
    """

    followers: int | None
    accounts: int
    carried: int
    delta: int | None
    compared: int


_IS_MEANT = """(account.platform = :of_platform OR CAST(:of_platform AS text) IS NULL)
    AND (account.org_name = :of_org OR CAST(:of_org AS text) IS NULL)"""
# One look into an index per account and then only the days needed, whatever the planner knows of the table.
_COUNTING = f"""
    SELECT account.platform, account.org_name, counting.*
    FROM dim_account AS account
    CROSS JOIN LATERAL (
        SELECT snapshot_date + age AS day, age, followers,
            CASE WHEN lag(snapshot_date + age) OVER by_day = snapshot_date + age - 1
                THEN followers - lag(followers) OVER by_day END AS change
        FROM (
            SELECT snapshot_date, followers, lead(snapshot_date) OVER (ORDER BY snapshot_date) AS next_date
            FROM fact_followers_snapshot AS fact
            WHERE fact.account_key = account.account_key AND precision <> 'held'
                AND snapshot_date BETWEEN CAST(:first AS date) - {CARRIED_DAYS + 1} AND :last
        ) AS reading
        CROSS JOIN generate_series(
            greatest(:first - 1 - snapshot_date, 0), least(next_date - 1 - snapshot_date, :last - snapshot_date, {CARRIED_DAYS})
        ) AS age
        WHERE followers IS NOT NULL
        WINDOW by_day AS (ORDER BY snapshot_date + age)
    ) AS counting
    WHERE counting.day >= :first AND {_IS_MEANT}
"""  # noqa: S608  # a number of days
_FIGURES = ", ".join(Total.__struct_fields__)
_SUMS = """sum(followers)::bigint AS followers, count(followers) AS accounts,
    count(*) FILTER (WHERE age > 0) AS carried, sum(change)::bigint AS delta, count(change) AS compared"""
_OF_DAYS = text(f"SELECT day, {_SUMS} FROM ({_COUNTING}) AS counting GROUP BY day").bindparams(*_RANGE, *_FILTERS)  # noqa: S608
_KEPT = text(f"""
    SELECT counted.snapshot_date, {", ".join(f"own.{name}" for name in Total.__struct_fields__)}
    FROM day_total AS counted
    LEFT JOIN day_total AS own ON (own.platform, own.org_name, own.snapshot_date)
        = (coalesce(:of_platform, ''), coalesce(:of_org, ''), counted.snapshot_date)
    WHERE (counted.platform, counted.org_name) = ('', '') AND counted.accounts IS NOT NULL
        AND counted.snapshot_date BETWEEN :first AND :last
""").bindparams(*_RANGE, *_FILTERS)  # noqa: S608  # names of columns
_FIRST_DAY = text("SELECT min(snapshot_date) FROM day_count WHERE (platform, org_name) = ('', '')")
_NONE = Total(followers=None, accounts=0, carried=0, delta=None, compared=0)


def by_day(conn: Connection, which: Which, first: date, last: date) -> dict[date, Total]:
    """Return the total of every day of a range; each day's change is the one to the day before."""
    found = dict.fromkeys(each_day(first, last), _NONE)
    added_up = _kept(conn, which, first, last)
    oldest = conn.scalar(_FIRST_DAY)
    missing = [day for day in found if day not in added_up and oldest and day >= oldest]
    for run_first, run_last in _runs(missing):
        added_up |= _of_days(conn, which, run_first, run_last)
    return found | added_up


def _kept(conn: Connection, which: Which, first: date, last: date) -> dict[date, Total]:
    """Return the days that have been added up; of a platform's accounts in one organisation none is."""
    if which.platform is not None and which.org is not None:
        return {}
    rows = conn.execute(_KEPT, _values(which, first, last))
    return {row[0]: _NONE if row.accounts is None else _total(row[1:]) for row in rows}


def _of_days(conn: Connection, which: Which, first: date, last: date) -> dict[date, Total]:
    """Add days up from the snapshots: it costs a few rows per account and day."""
    return {row[0]: _total(row[1:]) for row in conn.execute(_OF_DAYS, _values(which, first, last))}


def _runs(days: Sequence[date]) -> Iterator[tuple[date, date]]:
    """Yield the first and last of each run of days."""
    for _, run in groupby(enumerate(days), key=lambda item: item[1].toordinal() - item[0]):
        of_run = [day for _, day in run]
        yield of_run[0], of_run[-1]


def _values(which: Which, first: date, last: date) -> dict[str, object]:
    return {"of_platform": which.platform, "of_org": which.org, "first": first, "last": last}


def _total(row: Sequence[int | None]) -> Total:
    return Total(**dict(zip(Total.__struct_fields__, row, strict=True)))  # type: ignore[arg-type]  # as the columns are


def _newest(name: str, day: str) -> str:
    """Join what counts of an account on a day: nearly always a reading of that day, which are had together at less cost."""
    days = f"snapshot_date BETWEEN CAST({day} AS date) - {CARRIED_DAYS} AND {day} AND precision <> 'held'"
    # The day stands in a query of its own, so that the planner reckons with the rows of any day: of the newest, which its
    # statistics don't know yet, it would expect one, and look for each account among all. The range spares it partitions.
    return f"""LEFT JOIN (
        SELECT account_key, followers, precision FROM fact_followers_snapshot
        WHERE snapshot_date = (SELECT CAST({day} AS date)) AND {days}
    ) AS {name}_own ON {name}_own.account_key = account.account_key
    LEFT JOIN LATERAL (
        SELECT followers, snapshot_date, precision FROM fact_followers_snapshot AS fact
        WHERE {name}_own.account_key IS NULL AND fact.account_key = account.account_key AND {days}
        ORDER BY snapshot_date DESC LIMIT 1
    ) AS {name}_carried ON true
    CROSS JOIN LATERAL (
        SELECT coalesce({name}_own.followers, {name}_carried.followers) AS followers,
            coalesce({name}_own.precision, {name}_carried.precision) AS precision,
            {name}_carried.snapshot_date IS NOT NULL AS is_carried
    ) AS {name}"""  # noqa: S608  # the parts below


def _between(group: Group) -> TextClause:
    return text(f"""
        SELECT grouping(account.{group}) = 1, account.{group}, sum(newer.followers)::bigint,
            count(newer.followers),
            count(newer.followers) FILTER (WHERE newer.is_carried),
            sum(newer.followers - older.followers)::bigint,
            count(newer.followers - older.followers)
        FROM dim_account AS account {_newest("older", ":first")} {_newest("newer", ":last")}
        WHERE {_IS_MEANT}
        GROUP BY GROUPING SETS ((), (account.{group}))
        ORDER BY 1 DESC, 3 DESC NULLS LAST, 2
    """).bindparams(*_RANGE, *_FILTERS)  # noqa: S608  # names of columns


_BETWEEN = {group: _between(group) for group in get_args(Group)}


def between(
    conn: Connection, group: Group, which: Which, first: date, last: date
) -> tuple[Total, dict[str | None, Total]]:
    """Return the total of `last` with the change since `first`: of all, and by group, the largest first.

    Two walks through a day of snapshots, and a look into an index for each account that has none there.
    """
    (whole, *rows) = conn.execute(_BETWEEN[group], _values(which, first, last))
    return _total(whole[2:]), {row[1]: _total(row[2:]) for row in rows}


class Moved(Struct, frozen=True):
    """An account that counts on both of two days, and by how much its followers differ."""

    account_key: int
    followers: int
    change: int
    is_rounded: bool


_MOVED = text(f"""
    WITH moved AS MATERIALIZED (
        SELECT account.account_key, newer.followers, newer.followers - older.followers AS change,
            'rounded' IN (newer.precision, older.precision) AS is_rounded
        FROM dim_account AS account {_newest("older", ":first")} {_newest("newer", ":last")}
        WHERE newer.followers <> older.followers AND {_IS_MEANT}
    )
    (SELECT * FROM moved WHERE change > 0 ORDER BY change DESC, account_key LIMIT :most)
    UNION ALL
    (SELECT * FROM moved WHERE change < 0 ORDER BY change, account_key LIMIT :most)
""").bindparams(*_RANGE, *_FILTERS)  # noqa: S608  # the parts above


def moved(conn: Connection, which: Which, first: date, last: date, most: int) -> list[Moved]:
    """Return the accounts that gained most from one day to another, then those that lost most, at most so many of each.

    As dear as `between`. `db.movers` does it up to the newest readings, at less cost.
    """
    return [Moved(*row) for row in conn.execute(_MOVED, _values(which, first, last) | {"most": most})]


# As day_count is kept: of each platform, of each organisation, and of all. The row of all is there on any day.
_GROUPED = f"""
    SELECT coalesce(platform, '') AS platform, coalesce(org_name, '') AS org_name, of_range.day AS snapshot_date, {_SUMS}
    FROM (
        SELECT CAST(:first AS date) + n AS day FROM generate_series(0, CAST(:last AS date) - CAST(:first AS date)) AS n
    ) AS of_range
    LEFT JOIN ({_COUNTING}) AS counting USING (day)
    GROUP BY of_range.day, GROUPING SETS ((), (platform), (org_name))
    HAVING grouping(platform, org_name) = 3 OR coalesce(platform, org_name, '') <> ''
"""  # noqa: S608  # the parts above
_CLAIM = text("""
    WITH wanted AS (
        SELECT first + n AS snapshot_date
        FROM (SELECT min(snapshot_date) AS first FROM day_count WHERE (platform, org_name) = ('', '')) AS oldest
        CROSS JOIN generate_series(0, CAST(:today AS date) - 1 - first) AS n
        LEFT JOIN day_total ON (platform, org_name, snapshot_date) = ('', '', first + n)
        WHERE accounts IS NULL
        ORDER BY snapshot_date DESC LIMIT :most
    ),
    gone AS (DELETE FROM day_total USING wanted WHERE day_total.snapshot_date = wanted.snapshot_date)
    SELECT snapshot_date FROM wanted
""").bindparams(bindparam("today", type_=Date))
_MARK = text("INSERT INTO day_total (snapshot_date) SELECT unnest(:days)").bindparams(
    bindparam("days", type_=ARRAY(Date))
)
_ADD_UP = text(f"""
    WITH truth AS MATERIALIZED ({_GROUPED}),
    still AS (
        SELECT snapshot_date FROM day_total
        WHERE (platform, org_name) = ('', '') AND snapshot_date BETWEEN :first AND :last AND accounts IS NULL
        FOR UPDATE
    )
    INSERT INTO day_total (platform, org_name, snapshot_date, {_FIGURES})
    SELECT platform, org_name, snapshot_date, {_FIGURES} FROM truth JOIN still USING (snapshot_date)
    ON CONFLICT (platform, org_name, snapshot_date)
    DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in Total.__struct_fields__)}
""").bindparams(*_RANGE, *_FILTERS)  # noqa: S608  # the parts above


def keep(engine: Engine, *, today: date, most: int = 7) -> int:
    """Add up the newest days before `today` that aren't yet, at most so many; return how many were missing.

    Nobody waits while it adds up. A day is marked first, when nobody is in the middle of writing: whoever writes
    afterwards finds the mark and takes it away, and then what was added up isn't kept.
    """
    with transaction(engine) as conn:
        derived.alone(conn)
        days = sorted(conn.scalars(_CLAIM, {"today": today, "most": most}))
        conn.execute(_MARK, {"days": days})
    for first, last in _runs(days):
        with transaction(engine) as conn:
            _add_up(conn, first, last)
    return len(days)


def _add_up(conn: Connection, first: date, last: date) -> None:
    """Keep the totals of the days of a range that are still marked."""
    conn.execute(_ADD_UP, _values(Which(), first, last))


_FORGET = text("DELETE FROM day_total WHERE snapshot_date <= CAST(:since AS date) + :reach").bindparams(
    bindparam("since", type_=Date), reach=CARRIED_DAYS
)


def forget(conn: Connection, before: date) -> None:
    """Let no day before this one count any more, nor in what is added up of later ones."""
    conn.execute(_FORGET, {"since": before})


_IS_COUNTED = "(platform, org_name) = ('', '') AND accounts IS NOT NULL"
_COUNTED = text(f"SELECT min(snapshot_date), max(snapshot_date) FROM day_total WHERE {_IS_COUNTED}")  # noqa: S608


def _figures(of: str) -> str:
    return ", ".join(f"{of}.{name}" for name in Total.__struct_fields__)


_DIFFERENCES = text(f"""
    WITH counted AS (SELECT snapshot_date FROM day_total WHERE {_IS_COUNTED}),
    truth AS (SELECT * FROM ({_GROUPED}) AS grouped JOIN counted USING (snapshot_date)),
    stored AS (SELECT * FROM day_total JOIN counted USING (snapshot_date))
    SELECT concat_ws(' ', snapshot_date, nullif(platform, ''), nullif(org_name, '')),
        concat_ws(' ', {_figures("stored")}), concat_ws(' ', {_figures("truth")})
    FROM truth FULL JOIN stored USING (platform, org_name, snapshot_date)
    WHERE ({_figures("stored")}) IS DISTINCT FROM ({_figures("truth")})
    ORDER BY snapshot_date, platform, org_name
""").bindparams(*_RANGE, *_FILTERS)  # noqa: S608  # the parts above


def differences(conn: Connection) -> Iterator[tuple[Any, ...]]:
    """Yield the days that were added up otherwise than the snapshots say: where, as kept, as it should be."""
    first, last = conn.execute(_COUNTED).one()
    if first is not None:
        yield from conn.execute(_DIFFERENCES, _values(Which(), first, last))
