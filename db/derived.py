"""What follows from the snapshots: the newest numbers of each account, and how many rows each day has.

Both are kept in the transaction that changes the facts, so a summary and a total never read history. Whoever changes
facts in bulk calls `alone` first and `rederive` and one of the counting functions afterwards.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby
from operator import itemgetter

from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, Date, Text, bindparam, func, select, text

from db.recordset import as_json

# Any number, as long as no other lock of ours has it.
_WRITERS = 0x726F6C6C04
_BESIDE_OTHERS = select(func.pg_advisory_xact_lock_shared(_WRITERS))
_ALONE = select(func.pg_advisory_xact_lock(_WRITERS))


def beside_others(conn: Connection) -> None:
    """Wait for those who must be alone; held until the transaction ends, and taken before any row is locked."""
    conn.execute(_BESIDE_OTHERS)


def alone(conn: Connection) -> None:
    """Keep saves of jobs waiting until the transaction ends: what follows is derived from all that they wrote.

    Taken before any row is locked, so that neither waits for the other in turn. Readers never wait.
    """
    conn.execute(_ALONE)


def _past(days: int) -> str:
    return f"max(past.followers) FILTER (WHERE past.snapshot_date = newest.snapshot_date - {days}) AS of_{days}d"


# Column by column: of two rows taken whole, PostgreSQL 18 lost the second one.
_TAKEN = (
    *("account_key", "snapshot_date", "captured_at", "followers", "following", "posts", "engagement"),
    *("source", "precision"),
)
_ACCEPTED = f"""
    SELECT {", ".join(f"fact.{name}" for name in _TAKEN)}
    FROM fact_followers_snapshot AS fact WHERE fact.precision <> 'held'
"""  # noqa: S608  # names of columns
_EITHER = ", ".join(
    f"CASE WHEN near.account_key IS NULL THEN far.{name} ELSE near.{name} END AS {name}" for name in _TAKEN
)
_OF_ACCOUNT = "fact.account_key = dim_account.account_key AND fact.snapshot_date >= :since"
# By one look into an index per account and day, whatever the planner knows of the tables, and of days that are known
# at run time, so that it opens their partitions only. The newest of an account is nearly always as new as the stored
# one: the older partitions are opened for those alone of which that was taken away.
TRUE_LATEST = f"""
    SELECT dim_account.account_key, newest.snapshot_date, newest.captured_at,
        newest.followers, newest.following, newest.posts, newest.engagement,
        newest.followers - past.of_1d AS delta_1d,
        newest.followers - past.of_7d AS delta_7d,
        newest.followers - past.of_30d AS delta_30d,
        newest.source, newest.precision,
        CASE WHEN held.waits THEN stored.held_followers END AS held_followers,
        CASE WHEN held.waits THEN stored.held_at END AS held_at,
        CASE WHEN held.waits THEN stored.held_precision END AS held_precision
    FROM dim_account
    LEFT JOIN account_latest AS stored ON stored.account_key = dim_account.account_key
    LEFT JOIN LATERAL (
        {_ACCEPTED} AND {_OF_ACCOUNT} AND fact.snapshot_date >= coalesce(stored.snapshot_date, :since)
        ORDER BY fact.snapshot_date DESC LIMIT 1
    ) AS near ON true
    LEFT JOIN LATERAL (
        {_ACCEPTED} AND {_OF_ACCOUNT} AND fact.snapshot_date < stored.snapshot_date AND near.account_key IS NULL
        ORDER BY fact.snapshot_date DESC LIMIT 1
    ) AS far ON true
    CROSS JOIN LATERAL (SELECT {_EITHER}) AS newest
    CROSS JOIN LATERAL (
        SELECT {_past(1)}, {_past(7)}, {_past(30)}
        FROM fact_followers_snapshot AS past
        WHERE past.account_key = dim_account.account_key AND past.snapshot_date >= :since
        AND past.snapshot_date
            IN (newest.snapshot_date - 1, newest.snapshot_date - 7, newest.snapshot_date - 30)
        AND past.precision <> 'held'
    ) AS past
    -- A held reading waits as long as nothing newer is accepted and its day has either its own row or an accepted one.
    CROSS JOIN LATERAL (
        SELECT stored.held_at >= newest.captured_at AND (
            SELECT fact.precision <> 'held'
                OR (fact.captured_at, fact.followers) = (stored.held_at, stored.held_followers)
            FROM fact_followers_snapshot AS fact
            WHERE {_OF_ACCOUNT} AND fact.snapshot_date = (stored.held_at AT TIME ZONE 'UTC')::date
        ) AS waits
    ) AS held
    WHERE newest.account_key IS NOT NULL
"""  # noqa: S608  # the parts above
LATEST = (
    *("account_key", "snapshot_date", "captured_at", "followers", "following", "posts", "engagement"),
    *("delta_1d", "delta_7d", "delta_30d", "source", "precision", "held_followers", "held_at", "held_precision"),
)
_SINCE = bindparam("since", type_=Date)
_KEYS = bindparam("account_keys", type_=ARRAY(BigInteger))
_WRITE_LATEST = text(f"""
    INSERT INTO account_latest AS stored ({", ".join(LATEST)})
    {TRUE_LATEST} AND dim_account.account_key = ANY(:account_keys)
    ON CONFLICT (account_key) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in LATEST)}
    WHERE ({", ".join(f"stored.{name}" for name in LATEST)})
        IS DISTINCT FROM ({", ".join(f"excluded.{name}" for name in LATEST)})
""").bindparams(_KEYS, _SINCE)
# Once that is done, a row whose day isn't accepted is of an account that has no accepted day at all.
_REMOVE_LATEST = text("""
    DELETE FROM account_latest AS stored
    WHERE account_key = ANY(:account_keys) AND (
        SELECT account_key FROM fact_followers_snapshot AS fact
        WHERE fact.account_key = stored.account_key AND fact.snapshot_date = stored.snapshot_date
        AND fact.snapshot_date >= :since AND fact.precision <> 'held'
    ) IS NULL
""").bindparams(_KEYS, _SINCE)


def rederive(conn: Connection, account_keys: Collection[int], *, since: date = date.min) -> int:
    """Make the newest numbers of accounts what their snapshots say; return how many rows that changed.

    Snapshots before `since` count as gone. A held reading that nothing has settled stays held.
    """
    values = {"account_keys": list(account_keys), "since": since}
    return conn.execute(_WRITE_LATEST, values).rowcount + conn.execute(_REMOVE_LATEST, values).rowcount


class Block(Struct, frozen=True):
    """Every one of these days of every one of these accounts."""

    account_keys: Sequence[int]
    days: Sequence[date]


def blocks(pairs: Iterable[tuple[int, date]]) -> list[Block]:
    """Return sorted pairs of account and day as few blocks: a file of history usually is one, and PostgreSQL looks up
    all of a block in one walk through an index.
    """
    keys_of: defaultdict[tuple[date, ...], list[int]] = defaultdict(list)
    for key, of_account in groupby(pairs, key=itemgetter(0)):
        keys_of[tuple([day for _, day in of_account])].append(key)
    return [Block(keys, days) for days, keys in keys_of.items()]


class Newest(Struct, frozen=True):
    """What is kept of an account: the day of its newest numbers, if it has any, and whether a held reading waits."""

    day: date | None
    is_held: bool


_NEWEST = text("""
    SELECT snapshot_date, held_at IS NOT NULL, array_agg(account_key)
    FROM json_to_recordset(CAST(:blocks AS json)) AS block (account_keys bigint[])
    JOIN account_latest ON account_key = ANY(account_keys)
    GROUP BY snapshot_date, held_at IS NOT NULL
""")
_LISTED = text("""
    SELECT account_key FROM json_to_recordset(CAST(:blocks AS json)) AS block (account_keys bigint[])
    JOIN dim_account ON account_key = ANY(account_keys)
""")


def newest(conn: Connection, account_keys: Collection[int]) -> dict[int, Newest]:
    """Return what is kept of those accounts that are listed."""
    found: dict[int, Newest] = {}
    for day, is_held, keys in conn.execute(_NEWEST, _block(account_keys)).all():
        found |= dict.fromkeys(keys, Newest(day, is_held))
    if new := [key for key in account_keys if key not in found]:
        found |= dict.fromkeys(conn.scalars(_LISTED, _block(new)), Newest(None, is_held=False))
    return found


def _block(account_keys: Iterable[int]) -> dict[str, str]:
    return {"blocks": as_json([Block(list(account_keys), [])])}


_DELTA_DAYS = (1, 7, 30)
_FOLLOWED = ("captured_at", "followers", "following", "posts", "engagement", "source", "precision")
_OF_DAY = {
    "snapshot_date": "newest",
    **{name: f"fact.{name}" for name in _FOLLOWED},
    **{f"delta_{days}d": f"fact.followers - of_{days}d" for days in _DELTA_DAYS},
}
# By day through an index that has a day's accounts side by side, however far apart an account's history keeps them.
# The accounts are named twice, so that what is stored of them is read in one walk, too, instead of one by one. A newest
# day that somebody has taken away by hand is left to db.check.
_FOLLOW = text(f"""
    UPDATE account_latest AS stored SET {", ".join(f"{name} = {value}" for name, value in _OF_DAY.items())}
    FROM json_to_recordset(CAST(:of_days AS json)) AS of_day (account_keys bigint[], newest date)
    CROSS JOIN LATERAL (
        SELECT account_key,
            {", ".join(f"max({name}) FILTER (WHERE snapshot_date = newest) AS {name}" for name in _FOLLOWED)},
            {", ".join(f"max(followers) FILTER (WHERE snapshot_date = newest - {n}) AS of_{n}d" for n in _DELTA_DAYS)}
        FROM fact_followers_snapshot
        WHERE account_key = ANY(account_keys)
        AND snapshot_date IN (newest, {", ".join(f"newest - {days}" for days in _DELTA_DAYS)})
        AND precision <> 'held'
        GROUP BY account_key
    ) AS fact
    WHERE stored.account_key = fact.account_key AND stored.account_key = ANY(account_keys)
    AND fact.captured_at IS NOT NULL
    AND ({", ".join(f"stored.{name}" for name in _OF_DAY)}) IS DISTINCT FROM ({", ".join(_OF_DAY.values())})
""")  # noqa: S608  # names of columns


def catch_up(conn: Connection, before: Mapping[int, Newest], written: Iterable[Block], held: Collection[int]) -> None:
    """Make newest numbers what they are now that the snapshots of these days have been written.

    `before` is what was kept of each of their accounts until then; `held` are those of which a held reading was
    written. An account is in one block. Most of what an import writes lies behind the newest numbers and changes
    nothing; where it does, it is known which day is the newest now, unless a held reading plays a part.
    """
    of_day: defaultdict[date, list[int]] = defaultdict(list)
    unclear: list[int] = []
    for block in written:
        last = max(block.days)
        # The newest days whose numbers or deltas these days have a part in.
        touched = {day + timedelta(days=later) for day in block.days for later in (0, *_DELTA_DAYS)}
        for key in block.account_keys:
            was = before[key]
            if was.day is None or was.is_held or key in held:
                unclear.append(key)
            elif last > was.day:
                of_day[last].append(key)
            elif was.day in touched:
                of_day[was.day].append(key)
    if of_day:
        rows = as_json({"account_keys": keys, "newest": day} for day, keys in of_day.items())
        conn.execute(_FOLLOW, {"of_days": rows})
    if unclear:
        rederive(conn, unclear)


def _totals(rows: str) -> str:
    """Return the query that sums `rows` (snapshot_date, platform, org_name, snapshots) as day_count keeps them.

    The row of all platforms comes last: every job meets there, so its lock is held for the commit only.
    """
    return f"""
        SELECT snapshot_date, coalesce(platform, '') AS platform, coalesce(org_name, '') AS org_name,
            sum(snapshots)::bigint AS snapshots
        FROM ({rows}) AS counted
        GROUP BY snapshot_date, GROUPING SETS ((), (platform), (org_name))
        HAVING sum(snapshots) <> 0 AND (grouping(org_name) = 1 OR org_name <> '')
        ORDER BY org_name DESC, platform DESC, snapshot_date
    """  # noqa: S608  # statements of this package


def _adding(rows: str) -> str:
    return f"""
        INSERT INTO day_count AS kept (snapshot_date, platform, org_name, snapshots) {_totals(rows)}
        ON CONFLICT (platform, org_name, snapshot_date) DO UPDATE SET snapshots = kept.snapshots + excluded.snapshots
    """


_COUNT = text(
    _adding("""
        SELECT :day AS snapshot_date, platform, org_name, 1 AS snapshots
        FROM dim_account WHERE account_key = ANY(:account_keys)
    """)
).bindparams(_KEYS, bindparam("day", type_=Date))


def count(conn: Connection, account_keys: Collection[int], day: date) -> None:
    """Add one snapshot of a day for each of these accounts."""
    conn.execute(_COUNT, {"account_keys": list(account_keys), "day": day})


_COUNT_DAYS = text(
    _adding("""
        SELECT day AS snapshot_date, platform, org_name, snapshots
        FROM json_to_recordset(CAST(:blocks AS json)) AS block (account_keys bigint[], days date[])
        CROSS JOIN LATERAL (
            SELECT platform, org_name, count(*) AS snapshots
            FROM dim_account WHERE account_key = ANY(account_keys)
            GROUP BY platform, org_name
        ) AS of_account
        CROSS JOIN unnest(days) AS day
    """)
)


def count_days(conn: Connection, added: Sequence[Block]) -> None:
    """Add these snapshots to their days."""
    if added:
        conn.execute(_COUNT_DAYS, {"blocks": as_json(added)})


_COUNTED = text("""
    SELECT snapshot_date FROM day_count
    WHERE platform = '' AND org_name = '' AND snapshot_date = ANY(:days) AND snapshots > 0
""").bindparams(bindparam("days", type_=ARRAY(Date)))


def counted(conn: Connection, days: Collection[date]) -> set[date]:
    """Return those of these days that have a snapshot."""
    return set(conn.scalars(_COUNTED, {"days": list(days)}))


_MOVE = text(
    _adding("""
        SELECT snapshot_date, platform, side.org_name, side.snapshots
        FROM json_to_recordset(CAST(:moved AS json)) AS moved (account_key bigint, was text)
        JOIN dim_account USING (account_key)
        JOIN fact_followers_snapshot USING (account_key)
        CROSS JOIN LATERAL (VALUES (was, -1), (dim_account.org_name, 1)) AS side (org_name, snapshots)
    """)
)
_FORGET_EMPTY = text("DELETE FROM day_count WHERE org_name = ANY(:orgs) AND snapshots = 0").bindparams(
    bindparam("orgs", type_=ARRAY(Text))
)


def move(conn: Connection, was: Mapping[int, str | None]) -> None:
    """Take the snapshots of accounts over to the organisations that they have now; `was` are those before.

    Only for one who is `alone`.
    """
    conn.execute(_MOVE, {"moved": as_json({"account_key": key, "was": org} for key, org in was.items())})
    conn.execute(_FORGET_EMPTY, {"orgs": [org for org in set(was.values()) if org]})


TRUE_COUNTS = _totals("""
    SELECT snapshot_date, platform, org_name, count(*) AS snapshots
    FROM fact_followers_snapshot JOIN dim_account USING (account_key)
    GROUP BY snapshot_date, platform, org_name
""")
_RECOUNT = text(f"""
    WITH truth AS MATERIALIZED ({TRUE_COUNTS}),
    gone AS (
        DELETE FROM day_count AS kept WHERE NOT EXISTS (
            SELECT FROM truth
            WHERE (truth.platform, truth.org_name, truth.snapshot_date)
                = (kept.platform, kept.org_name, kept.snapshot_date)
        )
    )
    INSERT INTO day_count AS kept (snapshot_date, platform, org_name, snapshots)
    SELECT snapshot_date, platform, org_name, snapshots FROM truth
    ON CONFLICT (platform, org_name, snapshot_date) DO UPDATE SET snapshots = excluded.snapshots
    WHERE kept.snapshots <> excluded.snapshots
""")  # noqa: S608  # a statement of this package


def recount(conn: Connection) -> None:
    """Count all snapshots anew. Reads every one of them, so only for one who is `alone` and has no cheaper way."""
    conn.execute(_RECOUNT)


_FORGET_DAYS = text("DELETE FROM day_count WHERE snapshot_date < :since").bindparams(_SINCE)


def forget(conn: Connection, before: date) -> None:
    """Let no day before this one count any more."""
    conn.execute(_FORGET_DAYS, {"since": before})
