"""Why an account has no reading on a day: kept as ranges of days, so that it is known after the jobs are pruned.

A range is begun by what ends without a reading, in the transaction that says so. `failed` holds for the days on which
it was tried; `blocked`, `gone` and `paused` hold until something else is said, whether or not anyone looks again. A day
that has a reading has no gap, whatever was said before or after it: good readings write nothing here.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import groupby

from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, Date, Text, TextClause, bindparam, text

from db.recordset import as_json
from db.rows import Next

HELD = "held: a suspicious reading that no second one has confirmed"
NOT_TRACKED = "not yet tracked"
NOT_READ = "not read yet"
NOT_RUNNING = "collector not running"
NOT_TRIED = "not tried: the collector was running, and had no call left for it"

REASONS = {
    NOT_TRACKED: "is before the account was in the list, and nobody imported it",
    "failed: …": "had attempts, none good: the platform was down, timed out or answered what can't be understood. The day's last reason",
    "blocked: …": "a credential or an approval was missing (`needs X_BEARER_TOKEN`), or a login was asked for; until it can be read again",
    "gone: …": "not found, deleted, suspended or private; also on the days between two looks at it",
    "held: …": "had a reading that no second one has confirmed",
    "paused": "someone had taken the account out of the round (`is_active`)",
    "not due: …": "lies between two readings of an account that is read every few days",
    NOT_READ: "is today, or the account has never been read",
    NOT_RUNNING: "nobody was read, and no attempt is known",
    "not tried: …": "others were read, this account wasn't: an allowance or a quota was spent",
}
"""What each reason says of its day, as docs/data.md does; where more stands behind it, by its beginning."""

_DAY = bindparam("day", type_=Date)
_KEYS = bindparam("account_keys", type_=ARRAY(BigInteger))
_DAY_S = 86_400


def _recording(told: str) -> TextClause:
    """Return the statement that keeps what is said of accounts on a day.

    `told` are rows of account_key, result and reason; `result` is null where nothing stands against a reading. What
    was said last that day holds, and what is older than what is known says nothing new.
    """
    return text(f"""
        WITH told AS ({told}),
        known AS (
            SELECT told.*, newest.from_date, newest.to_date,
                (newest.result, newest.reason) IS NOT DISTINCT FROM (told.result, told.reason) AS is_same
            FROM told LEFT JOIN LATERAL (
                SELECT * FROM account_gap WHERE account_gap.account_key = told.account_key
                ORDER BY from_date DESC LIMIT 1
            ) AS newest ON true
            WHERE coalesce(newest.from_date <= :day, true)
        ),
        ended AS (
            UPDATE account_gap AS gap
            SET to_date = CASE WHEN known.result IS NULL THEN :day ELSE :day - 1 END
            FROM known
            WHERE (gap.account_key, gap.from_date) = (known.account_key, known.from_date) AND CASE
                WHEN known.result IS NULL THEN gap.to_date IS NULL
                ELSE NOT is_same AND gap.from_date < :day AND coalesce(gap.to_date >= :day, true)
            END
        )
        INSERT INTO account_gap (account_key, from_date, to_date, result, reason)
        SELECT account_key,
            CASE WHEN is_same AND coalesce(to_date >= :day - 1, true) THEN from_date ELSE :day END,
            CASE WHEN result = 'failed' THEN CAST(:day AS date) END, result, reason
        FROM known
        WHERE result IS NOT NULL AND NOT (is_same AND coalesce(result = 'failed' AND to_date >= :day, true))
        ON CONFLICT (account_key, from_date)
        DO UPDATE SET to_date = excluded.to_date, result = excluded.result, reason = excluded.reason
    """).bindparams(_DAY)  # noqa: S608  # statements of this module


# Of a paused account its being paused is the reason, whatever a job on its way still brings.
_RECORD = _recording("""
    SELECT account_key, nullif(result, 'ok') AS result, reason
    FROM json_to_recordset(CAST(:nexts AS json)) AS next (account_key bigint, result text, reason text)
    JOIN dim_account USING (account_key)
    WHERE is_active
""")
_STANDING = """
    SELECT account_key,
        CASE
            WHEN NOT is_active THEN 'paused'
            WHEN result IN ('blocked', 'gone') THEN result
            WHEN explained THEN 'blocked'
        END AS result,
        CASE WHEN is_active AND (result IN ('blocked', 'gone') OR explained) THEN reason END AS reason
    FROM scrape_state JOIN dim_account USING (account_key)
    WHERE subject = 'profile'
"""
_RECORD_STANDING = _recording(f"{_STANDING} AND account_key = ANY(:account_keys)").bindparams(_KEYS)
_EXPLAINED_OR_OPEN = "(explained OR account_key IN (SELECT account_key FROM account_gap WHERE to_date IS NULL))"
_RECORD_PLATFORM = _recording(
    f"{_STANDING} AND scrape_state.platform = :of_platform AND {_EXPLAINED_OR_OPEN}"
).bindparams(bindparam("of_platform", type_=Text))


def record(conn: Connection, nexts: Sequence[Next], day: date) -> None:
    """Keep how attempts to read profiles ended that day; a good one ends what stood against it."""
    conn.execute(_RECORD, {"nexts": as_json(nexts), "day": day})


def record_standing(conn: Connection, account_keys: Collection[int], day: date) -> None:
    """Keep how accounts stand from that day on, after they were paused or taken up again."""
    conn.execute(_RECORD_STANDING, {"account_keys": list(account_keys), "day": day})


def record_platform(conn: Connection, platform: str, day: date) -> None:
    """Keep from that day on that a platform can't be read at all, and why, or that it can be again."""
    conn.execute(_RECORD_PLATFORM, {"of_platform": platform, "day": day})


_FORGET = text("DELETE FROM account_gap WHERE to_date < :day").bindparams(_DAY)


def forget(conn: Connection, before: date) -> None:
    """Forget the ranges that ended before this day."""
    conn.execute(_FORGET, {"day": before})


class Gap(Struct, frozen=True, rename={"first": "from", "last": "to"}):
    """Days in a row without a reading, for one reason."""

    first: date
    last: date
    reason: str


class Missing(Struct, frozen=True, kw_only=True):
    """Days of an account without an accepted reading, in order and no later than today; `held` have a suspicious one.

    `interval_s` is how often the account is read, where it has no interval of its own.
    """

    days: Sequence[date]
    held: Collection[date]
    interval_s: int


class Tracking(Struct, frozen=True):
    """What is known of an account's days: since when it is listed, and the ranges of days with what stood against it."""

    added_date: date
    was_read: bool
    read_interval_s: int | None
    kept: list[Gap]


_ADDED = text("""
    SELECT dim_account.account_key, (added_at AT TIME ZONE 'UTC')::date, last_success_at IS NOT NULL, read_interval_s
    FROM dim_account LEFT JOIN scrape_state
        ON scrape_state.account_key = dim_account.account_key AND subject = 'profile'
    WHERE dim_account.account_key = ANY(:account_keys)
""").bindparams(_KEYS)
_KEPT = text("""
    SELECT account_key, greatest(from_date, :first), least(coalesce(to_date, :last), :last),
        concat_ws(': ', result, reason)
    FROM account_gap
    WHERE account_key = ANY(:account_keys) AND from_date <= :last AND coalesce(to_date >= :first, true)
    ORDER BY account_key, from_date
""").bindparams(_KEYS, bindparam("first", type_=Date), bindparam("last", type_=Date))
_BUSY = text("""
    SELECT snapshot_date FROM day_count
    WHERE platform = '' AND org_name = '' AND snapshot_date BETWEEN :first AND :last AND snapshots > 0
""").bindparams(bindparam("first", type_=Date), bindparam("last", type_=Date))


def tracking(conn: Connection, account_keys: Collection[int], first: date, last: date) -> dict[int, Tracking]:
    """Return what was kept of accounts that touches these days."""
    of_days = {"account_keys": list(account_keys), "first": first, "last": last}
    added = conn.execute(_ADDED, {"account_keys": list(account_keys)})
    found = {key: Tracking(day, was_read, interval_s, []) for key, day, was_read, interval_s in added}
    for key, *gap in conn.execute(_KEPT, of_days):
        if key in found:  # or it has been removed since
            found[key].kept.append(Gap(*gap))
    return found


def busy_days(conn: Connection, first: date, last: date) -> frozenset[date]:
    """Return the days on which any account was read."""
    return frozenset(conn.scalars(_BUSY, {"first": first, "last": last}))


def of_account(
    conn: Connection,
    account_key: int,
    missing: Sequence[date],
    *,
    held: Collection[date],
    today: date,
    interval_s: int,
) -> list[Gap]:
    """Return the days without an accepted reading in runs, each with its reason (see Missing)."""
    of_key = Missing(days=missing, held=held, interval_s=interval_s)
    found = reasons(conn, {account_key: of_key}, today)[account_key]
    return _runs([(day, found[day]) for day in missing if day in found])


def reasons(conn: Connection, missing: Mapping[int, Missing], today: date) -> dict[int, dict[date, str]]:
    """Return why accounts have no accepted reading on each of these days, by their keys; nothing of removed accounts."""
    nothing: dict[int, dict[date, str]] = {key: {} for key in missing}
    days = sorted({day for one in missing.values() for day in one.days})
    if not days:
        return nothing
    known = tracking(conn, missing, days[0], days[-1])
    found = {key: _own_reasons(missing[key], of_key, today) for key, of_key in known.items()}
    idle = {key: [day for day in missing[key].days if day not in own] for key, own in found.items()}
    if any(idle.values()):
        busy = busy_days(conn, days[0], days[-1])
        for key, its_days in idle.items():
            reason = _idle_reason(known[key].read_interval_s or missing[key].interval_s)
            found[key] |= {day: reason if day in busy else NOT_RUNNING for day in its_days}
    return nothing | found


def _own_reasons(missing: Missing, known: Tracking, today: date) -> dict[date, str]:
    """Return the reasons that lie in the account; days on which it should have been read, and wasn't, are left out."""
    untracked = {day: NOT_TRACKED for day in missing.days if day < known.added_date}
    unread = {
        day: NOT_READ for day in missing.days if day >= known.added_date and (day == today or not known.was_read)
    }
    kept = {day: gap.reason for gap in known.kept for day in each_day(gap.first, gap.last)}
    return untracked | unread | kept | dict.fromkeys(missing.held, HELD)


def _idle_reason(interval_s: int) -> str:
    """Return why an account wasn't tried on a day on which others were read."""
    every_days = interval_s // _DAY_S
    return f"not due: it is read every {every_days} days" if every_days > 1 else NOT_TRIED


def _runs(reasons: Sequence[tuple[date, str]]) -> list[Gap]:
    # Days in a row keep their distance from their place in the list.
    runs = groupby(enumerate(reasons), key=lambda item: (item[1][1], item[1][0].toordinal() - item[0]))
    days = [(reason, [day for _, (day, _) in run]) for (reason, _), run in runs]
    return [Gap(run[0], run[-1], reason) for reason, run in days]


def each_day(first: date, last: date) -> Iterator[date]:
    """Yield the days of a range, both ends included."""
    return (first + timedelta(days=n) for n in range((last - first).days + 1))
