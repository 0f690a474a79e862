"""How many accounts were read on each day, and why the others weren't: exactly those that the rows tell of."""

from collections.abc import Mapping
from datetime import UTC, datetime, time

from db import bulk, coverage, gaps
from db.coverage import NOT_DUE, NOT_DUE_TODAY, Coverage
from db.engine import Connection, Engine, transaction
from db.gaps import NOT_READ, NOT_RUNNING, NOT_TRIED
from db.rows import Next, Result
from tests.history import keep, snapshot
from tests.serving import add_account, days_ago

SPAN = 6


def listed(conn: Connection, name: str, ago: int) -> int:
    """Add an account that came into the list so many days ago."""
    added_at = datetime.combine(days_ago(ago), time(9), UTC)
    return add_account(conn, name, added_at=added_at)


def ended(conn: Connection, key: int, ago: int, result: Result, reason: str | None = None) -> None:
    """Say how an attempt to read an account ended on a day."""
    one = Next(account_key=key, result=result, reason=reason, failures=0, due_at=datetime.now(UTC))
    gaps.record(conn, [one], days_ago(ago))


def found(
    conn: Connection, *platforms: str, seldom: Mapping[str, int] = {}, today: tuple[int, int] = (0, 0)
) -> dict[int, Coverage]:
    """Return the days by how long ago they are, of these platforms together."""
    names = platforms or ("x",)
    days = coverage.by_day(
        conn, names, days_ago(SPAN), days_ago(0), seldom=seldom, today=dict.fromkeys(names[:1], today)
    )
    return {ago: coverage.together(days[name][days_ago(ago)] for name in names) for ago in range(SPAN + 1)}


def test_a_day_says_how_many_were_read_and_why_the_others_were_not(engine: Engine) -> None:
    with transaction(engine) as conn:
        read, failed, blocked, gone, forgotten = (listed(conn, f"x/a{n}", SPAN) for n in range(5))
        keep(conn, read, *(days_ago(ago) for ago in range(1, SPAN + 1)))
        keep(conn, forgotten, days_ago(3))
        ended(conn, failed, 3, "failed", "timed out")
        ended(conn, blocked, 4, "blocked", "needs X_BEARER_TOKEN")
        ended(conn, gone, 4, "gone", "not found")
        days = found(conn)
    assert days[3] == Coverage(
        listed=5,
        read=2,
        missed={"failed: timed out": 1, "blocked: needs X_BEARER_TOKEN": 1},
        excused={"gone: not found": 1},
    )
    assert (days[3].expected, days[3].pct) == (4, 50.0)
    assert days[2].missed == {"blocked: needs X_BEARER_TOKEN": 1, NOT_TRIED: 2}
    assert days[5].missed == {NOT_TRIED: 4}
    assert days[5].excused == {}


def test_an_attempt_that_failed_before_a_good_one_is_no_miss(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "x/agency", SPAN)
        ended(conn, key, 2, "failed", "timed out")
        ended(conn, key, 2, "ok")
        keep(conn, key, days_ago(2))
        # An import fills a day in the midst of those on which it was blocked.
        other = listed(conn, "x/other", SPAN)
        ended(conn, other, 5, "blocked", "refused")
        keep(conn, other, days_ago(2))
        days = found(conn)
    assert (days[2].read, days[2].missed, days[2].pct) == (2, {}, 100.0)
    assert days[3].missed == {"blocked: refused": 1, NOT_RUNNING: 1}


def test_a_day_on_which_nobody_was_read_is_the_collector_s(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "x/agency", SPAN), days_ago(3))
        listed(conn, "bluesky/agency.example", SPAN)
        days = found(conn, "x", "bluesky")
    assert days[3].missed == {NOT_TRIED: 1}
    assert days[2].missed == {NOT_RUNNING: 2}


def test_days_before_the_list_have_numbers_and_no_share(engine: Engine) -> None:
    with transaction(engine) as conn:
        first = listed(conn, "x/first", 3)
        keep(conn, first, days_ago(5), days_ago(4), days_ago(2))
        days = found(conn)
    assert (days[5].listed, days[5].read, days[5].expected, days[5].pct) == (0, 1, None, None)
    assert (days[6].read, days[6].expected) == (0, None)
    assert (days[2].read, days[2].expected, days[2].pct) == (1, 1, 100.0)


def test_numbers_from_before_a_later_account_s_listing_hide_no_gap_of_others(engine: Engine) -> None:
    with transaction(engine) as conn:
        listed(conn, "x/first", SPAN)
        later = listed(conn, "x/later", 2)
        keep(conn, later, *(days_ago(ago) for ago in range(1, SPAN + 1)))
        days = found(conn)
    assert (days[4].listed, days[4].read, days[4].missed) == (1, 1, {NOT_TRIED: 1})
    assert days[4].pct == 50.0
    assert (days[1].listed, days[1].read, days[1].missed) == (2, 1, {NOT_TRIED: 1})


def test_accounts_that_are_read_every_few_days_are_not_missed_between(engine: Engine) -> None:
    with transaction(engine) as conn:
        keep(conn, listed(conn, "x/daily", SPAN), days_ago(2))
        for name in ("x/weekly", "x/monthly"):
            listed(conn, name, SPAN)
        days = found(conn, seldom={"x": 2})
        one = found(conn, seldom={"x": 1})
    assert (days[2].missed, days[2].excused) == ({}, {NOT_DUE: 2})
    assert (one[2].missed, one[2].excused) == ({NOT_TRIED: 1}, {NOT_DUE: 1})


def test_today_is_as_accounts_stand_now(engine: Engine) -> None:
    with transaction(engine) as conn:
        read, failed, due, later = (listed(conn, f"x/a{n}", SPAN) for n in range(4))
        bulk.upsert_snapshots(conn, [snapshot(read, days_ago(0))])
        ended(conn, failed, 0, "failed", "timed out")
        days = found(conn, today=(3, 1))
    assert days[0] == Coverage(
        listed=4, read=1, missed={"failed: timed out": 1, NOT_READ: 1}, excused={NOT_DUE_TODAY: 1}
    )
    assert due != later


def test_a_held_reading_is_a_reading(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "x/agency", SPAN)
        bulk.upsert_snapshots(conn, [snapshot(key, days_ago(2), precision="held")])
        days = found(conn)
    assert (days[2].read, days[2].missed) == (1, {})


def test_without_accounts_there_is_nothing_to_tell(engine: Engine) -> None:
    with transaction(engine) as conn:
        assert coverage.by_day(conn, [], days_ago(SPAN), days_ago(0), seldom={}, today={}) == {}
        assert found(conn)[3] == coverage.NOTHING
