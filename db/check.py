"""Compares what is kept beside the snapshots with what they say, and mends it: `rollcall db check`."""

from collections.abc import Iterator
from datetime import date
from typing import Any

from msgspec import Struct
from sqlalchemy import Connection, text

from db import derived, totals


class Difference(Struct, frozen=True):
    """One value that isn't what the snapshots say. `where` is an account or a day; None means no such row."""

    what: str
    where: str
    stored: object
    true: object


_NAME = "platform || '/' || handle || CASE WHEN host <> '' THEN '@' || host ELSE '' END"
_LATEST = text(f"""
    SELECT {_NAME}, to_jsonb(stored), to_jsonb(truth)
    FROM ({derived.TRUE_LATEST}) AS truth
    FULL JOIN (SELECT {", ".join(derived.LATEST)} FROM account_latest) AS stored USING (account_key)
    JOIN dim_account USING (account_key)
    WHERE stored IS DISTINCT FROM truth
    ORDER BY account_key
""").bindparams(since=date.min)  # noqa: S608  # the statement of derived, names of columns
_COUNTS = text(f"""
    SELECT concat_ws(' ', snapshot_date, nullif(platform, ''), nullif(org_name, '')), stored.snapshots, truth.snapshots
    FROM ({derived.TRUE_COUNTS}) AS truth FULL JOIN day_count AS stored USING (snapshot_date, platform, org_name)
    WHERE stored.snapshots IS DISTINCT FROM truth.snapshots
    ORDER BY snapshot_date, platform, org_name
""")  # noqa: S608  # the statement of derived
_STRAY = """
    FROM fact_followers_snapshot
    WHERE NOT EXISTS (SELECT FROM dim_account WHERE dim_account.account_key = fact_followers_snapshot.account_key)
"""
_STRAYS = text(f"SELECT 'account_key ' || account_key, count(*) {_STRAY} GROUP BY account_key ORDER BY account_key")
_REMOVE_STRAYS = text(f"DELETE {_STRAY}")
_DIFFERING = text(f"""
    SELECT account_key FROM ({derived.TRUE_LATEST}) AS truth
    FULL JOIN (SELECT {", ".join(derived.LATEST)} FROM account_latest) AS stored USING (account_key)
    WHERE stored IS DISTINCT FROM truth
""").bindparams(since=date.min)  # noqa: S608  # the statement of derived, names of columns
_ONE_MOMENT = text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def one_moment(conn: Connection) -> None:
    """Let every statement of a transaction that begins see the same moment: else a save looks like a difference."""
    conn.execute(_ONE_MOMENT)


def differences(conn: Connection) -> Iterator[Difference]:
    """Yield what differs: newest numbers, counts and totals of days, and snapshots of accounts that are no more.

    Reads every snapshot once. While others write, the caller takes `one_moment` or `derived.alone` first.
    """
    for name, stored, true in conn.execute(_LATEST):
        yield from _of_latest(name, stored, true)
    for where, kept, counted in conn.execute(_COUNTS):
        yield Difference("snapshots of a day", where, kept, counted)
    for where, added_up, sum_of_day in totals.differences(conn):
        yield Difference("total of a day", where, added_up, sum_of_day)
    for where, strays in conn.execute(_STRAYS):
        yield Difference("snapshots of no account", where, strays, None)


def repair(conn: Connection) -> list[Difference]:
    """Mend what differs and return what that was. Saves of jobs wait until the transaction ends."""
    derived.alone(conn)
    found = list(differences(conn))
    if found:
        conn.execute(_REMOVE_STRAYS)
        derived.rederive(conn, list(conn.scalars(_DIFFERING)))
        derived.recount(conn)
        totals.forget(conn, before=date.max)
    return found


def _of_latest(name: str, stored: dict[str, Any] | None, true: dict[str, Any] | None) -> Iterator[Difference]:
    if stored is None or true is None:
        yield Difference("newest numbers", name, stored and stored["snapshot_date"], true and true["snapshot_date"])
        return
    for column in derived.LATEST:
        if stored[column] != true[column]:
            yield Difference(f"newest {column}", name, stored[column], true[column])
