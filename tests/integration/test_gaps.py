"""Why an account has no reading on a day: what every ending of an attempt leaves behind, long after its job is gone."""

from collections.abc import Sequence
from datetime import date, datetime, timedelta

import pytest
from alembic import command
from sqlalchemy import event, text

from db import accounts, claims, explained, gaps, migrate, partitions, writes
from db.accounts import Facts, New, Sought
from db.engine import Connection, Engine, transaction
from db.gaps import HELD, NOT_READ, NOT_RUNNING, NOT_TRACKED, NOT_TRIED
from db.rows import Next, Result
from tests.fakes import NOON
from tests.history import keep
from tests.jobs import decided, listed, requested, running, said, saved

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
TODAY = NOON.date()


def day(number: int) -> date:
    """Return a day, counted from the one that the accounts are listed on."""
    return TODAY + number * DAY


def tried(conn: Connection, key: int, result: Result, reason: str | None = None, *, at: datetime) -> None:
    """Try to read an account that isn't read."""
    job = requested(conn, [key], now=at)
    nexts = decided(job, result, reason, now=at)
    assert writes.save(conn, job, nexts=nexts, source="simulated", now=at)


def read(conn: Connection, key: int, *, at: datetime, followers: int = 100) -> None:
    job = requested(conn, [key], now=at)
    assert saved(conn, job, said(job, followers), now=at)


def found(
    conn: Connection, key: int, until: int, *, since: int = 0, interval_s: int = 86_400
) -> list[tuple[int, int, str]]:
    """Return the gaps as an account's history shows them: first and last day by number, and why."""
    held_days = text("SELECT snapshot_date, precision = 'held' FROM fact_followers_snapshot WHERE account_key = :key")
    rows = dict(conn.execute(held_days, {"key": key}).all())
    missing = [one for one in gaps.each_day(day(since), day(until)) if rows.get(one) is not False]
    held = {one for one, is_held in rows.items() if is_held}
    shown = gaps.of_account(conn, key, missing, held=held, today=day(until), interval_s=interval_s)
    return [((gap.first - TODAY).days, (gap.last - TODAY).days, gap.reason) for gap in shown]


def kept(conn: Connection) -> int:
    return conn.scalar(text("SELECT count(*) FROM account_gap")) or 0


@pytest.fixture
def key(engine: Engine) -> int:
    with transaction(engine) as conn:
        return listed(conn, "agency")[0]


def test_days_in_a_row_on_which_it_failed_alike_are_one_range(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        for number in (1, 2, 3):
            for hour in (0, 5):
                tried(conn, key, "failed", "timed out", at=NOON + number * DAY + hour * HOUR)
        read(conn, key, at=NOON + 4 * DAY)
        assert found(conn, key, 4) == [(1, 3, "failed: timed out")]
        assert kept(conn) == 1


def test_of_several_reasons_on_a_day_the_last_holds(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        tried(conn, key, "failed", "timed out", at=NOON)
        tried(conn, key, "failed", "timed out", at=NOON + DAY)
        tried(conn, key, "failed", "answered 503", at=NOON + DAY + HOUR)
        tried(conn, key, "blocked", "needs X_BEARER_TOKEN", at=NOON + DAY + 2 * HOUR)
        assert found(conn, key, 1) == [(0, 0, "failed: timed out"), (1, 1, "blocked: needs X_BEARER_TOKEN")]


def test_a_failure_says_nothing_of_the_days_on_which_nobody_tried(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        tried(conn, key, "failed", "timed out", at=NOON + DAY)
        tried(conn, key, "failed", "timed out", at=NOON + 4 * DAY)
        assert found(conn, key, 4) == [
            (1, 1, "failed: timed out"),
            (2, 3, NOT_RUNNING),
            (4, 4, "failed: timed out"),
        ]


@pytest.mark.parametrize("result", ["gone", "blocked"])
def test_what_lasts_holds_on_the_days_between_until_it_is_read_again(
    engine: Engine, key: int, result: Result
) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        tried(conn, key, result, "suspended", at=NOON + DAY)
        tried(conn, key, result, "suspended", at=NOON + 9 * DAY)
        assert found(conn, key, 12) == [(1, 12, f"{result}: suspended")]
        read(conn, key, at=NOON + 15 * DAY)
        keep(conn, listed(conn, "other")[0], day(16), day(17))
        assert found(conn, key, 18) == [(1, 14, f"{result}: suspended"), (16, 17, NOT_TRIED), (18, 18, NOT_READ)]
        assert kept(conn) == 1


def test_a_day_that_was_read_is_no_gap_whatever_failed_before_or_after(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        tried(conn, key, "failed", "timed out", at=NOON - HOUR)
        read(conn, key, at=NOON)
        tried(conn, key, "gone", "not found", at=NOON + HOUR)
        read(conn, key, at=NOON + 2 * HOUR)
        assert found(conn, key, 0) == []
        keep(conn, key, day(1))
        tried(conn, key, "gone", "not found", at=NOON + 2 * DAY)
        assert found(conn, key, 2) == [(2, 2, "gone: not found")]


def test_the_reason_outlives_the_job(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        tried(conn, key, "failed", "answered 503", at=NOON)
        assert claims.prune(conn, before=NOON + 30 * DAY) == 1
        read(conn, key, at=NOON + DAY)
        assert found(conn, key, 1) == [(0, 0, "failed: answered 503")]


def test_a_held_reading_says_so_until_a_second_one_confirms_it(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON, followers=5_000)
        read(conn, key, at=NOON + DAY, followers=100)
        assert found(conn, key, 1) == [(1, 1, HELD)]
        read(conn, key, at=NOON + 2 * DAY, followers=101)
        assert found(conn, key, 2) == []


def test_days_before_the_list_had_it_are_not_tracked_unless_imported(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        keep(conn, key, day(-3))
        assert found(conn, key, 1, since=-5) == [(-5, -4, NOT_TRACKED), (-2, -1, NOT_TRACKED), (0, 1, NOT_READ)]


def test_a_paused_account_is_paused_until_it_is_taken_up_again(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        accounts.change(conn, {key: Facts(is_active=False)}, now=NOON + DAY)
        tried(conn, key, "failed", "timed out", at=NOON + 2 * DAY)
        assert found(conn, key, 3) == [(1, 3, "paused")]
        accounts.change(conn, {key: Facts()}, now=NOON + 5 * DAY)
        read(conn, key, at=NOON + 6 * DAY)
        assert found(conn, key, 7) == [(1, 5, "paused"), (7, 7, NOT_READ)]


def test_a_pause_of_a_gone_account_ends_in_its_being_gone(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        tried(conn, key, "gone", "not found", at=NOON)
        accounts.change(conn, {key: Facts(is_active=False)}, now=NOON + 2 * DAY)
        accounts.change(conn, {key: Facts()}, now=NOON + 4 * DAY)
        assert found(conn, key, 5) == [
            (0, 1, "gone: not found"),
            (2, 3, "paused"),
            (4, 5, "gone: not found"),
        ]


def test_an_account_that_comes_paused_or_without_a_reader_says_so_from_its_first_day(engine: Engine) -> None:
    with transaction(engine) as conn:
        paused = listed(conn, "paused", is_active=False)[0]
        unread = [New(Sought("flickr", "unread"), "https://flickr.example", Facts(), "profiles", "no reader yet")]
        accounts.add(conn, unread, now=NOON)
        other = accounts.find(conn, "flickr", "unread")
        assert other is not None
        assert found(conn, paused, 2) == [(0, 2, "paused")]
        assert found(conn, other, 2) == [(0, 2, "blocked: no reader yet")]


def test_a_platform_without_its_credential_is_blocked_from_that_day_to_the_one_it_has_it(
    engine: Engine, key: int
) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        explained.explain(conn, platform="x", result="blocked", reason="needs X_BEARER_TOKEN")
        gaps.record_platform(conn, "x", day(2))
        late = listed(conn, "late", now=NOON + 3 * DAY)[0]
        explained.explain(conn, platform="x", result="blocked", reason="needs X_BEARER_TOKEN")
        gaps.record_platform(conn, "x", day(3))
        explained.clear(conn, platform="x")
        gaps.record_platform(conn, "x", day(5))
        read(conn, key, at=NOON + 6 * DAY)
        assert found(conn, key, 6) == [(1, 1, NOT_RUNNING), (2, 5, "blocked: needs X_BEARER_TOKEN")]
        assert found(conn, late, 6, since=3) == [(3, 5, "blocked: needs X_BEARER_TOKEN"), (6, 6, NOT_READ)]


def test_good_readings_and_posts_write_nothing_of_gaps(engine: Engine, key: int) -> None:
    sent: list[str] = []
    with transaction(engine) as conn:
        event.listen(conn, "before_cursor_execute", lambda *args: sent.append(args[2]))
        read(conn, key, at=NOON)
        posts = running(conn, kind="posts", batch=1)
        nexts = decided(posts, "failed", "timed out")
        assert writes.save(conn, posts, nexts=nexts, source="simulated", now=NOON)
        assert not any("account_gap" in statement for statement in sent)
        read(conn, key, at=NOON + DAY)
        assert found(conn, key, 1) == []


def test_news_older_than_what_is_known_changes_nothing(engine: Engine, key: int) -> None:
    def told(result: Result) -> Sequence[Next]:
        return [Next(account_key=key, result=result, reason="late", failures=1, due_at=NOON)]

    with transaction(engine) as conn:
        tried(conn, key, "gone", "not found", at=NOON + 3 * DAY)
        for result in ("failed", "ok"):
            gaps.record(conn, told(result), day(1))
        assert found(conn, key, 4, since=1) == [(1, 2, NOT_READ), (3, 4, "gone: not found")]


def test_ranges_past_the_retention_are_forgotten_with_their_days(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        for months, reason in ((30, "long ago"), (1, "lately")):
            tried(conn, key, "failed", reason, at=NOON - months * 30 * DAY)
            keep(conn, key, (NOON - months * 30 * DAY).date())
        partitions.ensure(conn, today=TODAY)
        partitions.retire(conn, today=TODAY, months=12, action="drop")
        assert conn.scalars(text("SELECT reason FROM account_gap")).all() == ["lately"]


def test_the_simulated_ones_go_with_the_demo_and_the_paused_stay_paused(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        listed(conn, "paused", is_active=False)
        read(conn, key, at=NOON)
        tried(conn, key, "failed", "timed out", at=NOON + DAY)
        writes.clear_simulated(conn, resolving=[])
        assert conn.scalars(text("SELECT result FROM account_gap")).all() == ["paused"]


def test_without_an_attempt_a_day_is_the_collectors_unless_another_account_was_read(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        keep(conn, listed(conn, "other")[0], day(3), day(5))
        read(conn, key, at=NOON + 4 * DAY)
        assert found(conn, key, 6) == [
            (1, 2, NOT_RUNNING),
            (3, 3, NOT_TRIED),
            (5, 5, NOT_TRIED),
            (6, 6, NOT_READ),
        ]


def test_an_account_that_is_read_every_week_isn_t_due_in_between(engine: Engine, key: int) -> None:
    with transaction(engine) as conn:
        read(conn, key, at=NOON)
        keep(conn, listed(conn, "other")[0], day(1), day(2))
        assert found(conn, key, 3, interval_s=7 * 86_400) == [
            (1, 2, "not due: it is read every 7 days"),
            (3, 3, NOT_READ),
        ]


def test_an_upgrade_takes_over_how_accounts_stand(engine: Engine, database_url: str, key: int) -> None:
    with transaction(engine) as conn:
        failed, paused, good = (
            listed(conn, "failed")[0],
            listed(conn, "paused", is_active=False)[0],
            listed(conn, "b")[0],
        )
        tried(conn, key, "gone", "not found", at=NOON)
        tried(conn, failed, "failed", "timed out", at=NOON)
        read(conn, good, at=NOON)
        command.downgrade(migrate._config(conn), "0005")
    migrate.upgrade(database_url)
    with transaction(engine) as conn:
        assert found(conn, key, 2) == [(0, 2, "gone: not found")]
        assert found(conn, failed, 2) == [(0, 0, "failed: timed out"), (1, 2, NOT_READ)]
        ranges = text("SELECT to_date FROM account_gap WHERE account_key = :key AND result = 'paused'")
        assert conn.scalars(ranges, {"key": paused}).all() == [None]
        assert kept(conn) == 3
