"""Suspicious readings: held, out of every total, until a second reading confirms or refutes them."""

import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct, structs
from sqlalchemy import Connection, event, insert, text, update

from db import dataset, reads, writes
from db.engine import Engine, reading, transaction
from db.keyset import Order, Window
from db.models import account_latest, fact_followers_snapshot
from db.reads import Clock, Filters
from db.rows import DOUBT, Changes, Doubt
from db.standing import StaleAfter
from tests import fakes
from tests.fakes import NOON
from tests.jobs import decided, listed, requested, said, saved
from tests.serving import InProcess, in_process

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TODAY = NOON.date()
STALE_AFTER = StaleAfter(interval_s=86_400, after_s=93_600)


def read(
    conn: Connection,
    key: int,
    followers: int | None,
    now: datetime = NOON,
    *,
    doubt: Doubt = DOUBT,
    **fields: Any,
) -> Changes:
    """Ask for one account and save what its profile said."""
    job = requested(conn, [key], now=now)
    changes = writes.save(
        conn,
        job,
        nexts=decided(job, now=now),
        profiles=said(job, followers, **fields),
        source="simulated",
        now=now,
        doubt=doubt,
    )
    assert changes is not None
    return changes


def latest(conn: Connection, key: int) -> Any:
    return conn.execute(account_latest.select().where(account_latest.c.account_key == key)).one()


def days(conn: Connection, key: int) -> dict[date, tuple[int | None, str]]:
    """Return the followers and the precision of an account's snapshots."""
    rows = conn.execute(fact_followers_snapshot.select().where(fact_followers_snapshot.c.account_key == key))
    return {row.snapshot_date: (row.followers, row.precision) for row in rows}


def due_in(conn: Connection, key: int, now: datetime) -> timedelta:
    state = text("SELECT next_due_at FROM scrape_state WHERE account_key = :key AND subject = 'profile'")
    due_at: datetime = conn.execute(state, {"key": key}).scalar_one()
    return due_at - now


# What is suspicious


@pytest.mark.parametrize(
    ("before", "after", "hours"),
    [
        pytest.param(5_000, 0, 24, id="0 after thousands"),
        pytest.param(5_000, 0, 24 * 400, id="0 after thousands, a year later"),
        pytest.param(1_000, 500, 24, id="half, of the fewest that count"),
        pytest.param(10_000, 5_000, 1, id="half within the hour"),
        pytest.param(10_000, 40_000, 24, id="four times as many"),
        pytest.param(10_000, 40_000, 1, id="four times as many within the hour"),
        pytest.param(250, 1_000, 24, id="four times as many, from few"),
        pytest.param(0, 1_000, 24, id="many after none"),
        pytest.param(2**62, 2**60, 24, id="as large as numbers get"),
    ],
)
def test_a_reading_far_from_the_accepted_one_is_held_and_changes_no_number(
    engine: Engine, before: int, after: int, hours: int
) -> None:
    now = NOON + hours * HOUR
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, before)
        accepted = latest(conn, key)
        read(conn, key, after, now, precision="rounded")
        row = latest(conn, key)
        overview = reads.overview(conn, Clock(now, STALE_AFTER))
    assert (row.held_followers, row.held_at, row.held_precision) == (after, now, "rounded")
    nothing_held = {"held_followers": None, "held_at": None, "held_precision": None}
    assert row._asdict() | nothing_held == accepted._asdict()
    assert overview.followers == before


@pytest.mark.parametrize(
    ("before", "after", "hours"),
    [
        pytest.param(1_000, 501, 24, id="a little less than half lost"),
        pytest.param(10_000, 39_999, 24, id="a little less than four times as many"),
        pytest.param(3, 15, 24, id="five times as many of a tiny account"),
        pytest.param(999, 0, 24, id="all of a small account lost"),
        pytest.param(10_000, 40_000, 48, id="four times as many in two days"),
        pytest.param(None, 10_000, 24, id="shown after it was hidden"),
        pytest.param(10_000, None, 24, id="hidden"),
    ],
)
def test_a_reading_within_the_bounds_is_believed(
    engine: Engine, before: int | None, after: int | None, hours: int
) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, before)
        read(conn, key, after, NOON + hours * HOUR)
        assert (latest(conn, key).followers, latest(conn, key).held_at) == (after, None)
        assert days(conn, key)[(NOON + hours * HOUR).date()] == (after, "exact")


def test_a_rise_in_two_days_is_held_from_twice_the_daily_one(engine: Engine) -> None:
    with transaction(engine) as conn:
        for followers, is_held in ((69_999, False), (70_000, True)):
            key = listed(conn, f"to{followers}")[0]
            read(conn, key, 10_000)
            read(conn, key, followers, NOON + 2 * DAY)
            assert (latest(conn, key).held_at is not None) is is_held, followers


def test_the_first_reading_is_believed(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000_000)
        assert latest(conn, key).followers == 5_000_000
        assert days(conn, key) == {TODAY: (5_000_000, "exact")}


def test_the_bounds_are_the_settings(engine: Engine, database_url: str, redis_url: str) -> None:
    bounds = {"HELD_DROP_PCT": "10", "HELD_RISE_PCT": "20", "HELD_MIN_FOLLOWERS": "50", "HELD_RECHECK_S": "60"}
    doubt = fakes.settings(database_url, redis_url, **bounds).doubt
    with transaction(engine) as conn:
        for before, after, is_held in ((100, 90, True), (100, 91, False), (100, 120, True), (40, 49, False)):
            key = listed(conn, f"from{before}to{after}")[0]
            read(conn, key, before)
            read(conn, key, after, NOON + HOUR, doubt=doubt)
            assert (latest(conn, key).held_at is not None) is is_held, (before, after)
            assert due_in(conn, key, NOON + HOUR) == (timedelta(minutes=1) if is_held else DAY)


def test_settings_hold_what_is_held_without_settings(database_url: str, redis_url: str) -> None:
    assert fakes.settings(database_url, redis_url).doubt == DOUBT


# Where a held reading stands


def test_a_held_reading_is_the_snapshot_of_a_day_without_a_good_one(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        assert read(conn, key, 0, NOON + DAY).snapshots == 1
        assert days(conn, key) == {TODAY: (5_000, "exact"), TODAY + timedelta(days=1): (0, "held")}
        assert conn.scalar(text("SELECT sum(snapshots) FROM day_count WHERE platform = 'x'")) == 2


def test_a_held_reading_never_replaces_the_good_one_of_its_day(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        assert read(conn, key, 0, NOON + HOUR).snapshots == 0
        assert days(conn, key) == {TODAY: (5_000, "exact")}
        assert latest(conn, key).held_at == NOON + HOUR


def test_a_batch_holds_only_what_is_suspicious(engine: Engine) -> None:
    with transaction(engine) as conn:
        keys = listed(conn, "falls", "stays")
        job = requested(conn, keys)
        saved(conn, job, said(job, 5_000))
        job = requested(conn, keys, now=NOON + DAY)
        profiles = [structs.replace(p, followers=f) for p, f in zip(said(job), (0, 5_001), strict=True)]
        saved(conn, job, profiles, now=NOON + DAY)
        assert [latest(conn, key).followers for key in keys] == [5_000, 5_001]
        assert [due_in(conn, key, NOON + DAY) for key in keys] == [HOUR, DAY]


def test_a_decision_that_is_due_sooner_stands(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        read(conn, key, 0, NOON + HOUR, doubt=structs.replace(DOUBT, recheck_s=7 * 86_400))
        assert due_in(conn, key, NOON + HOUR) == DAY


# What the second reading makes of it


def test_a_second_reading_near_the_held_one_makes_both_count(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        read(conn, key, 100, NOON + DAY, precision="rounded")
        read(conn, key, 110, NOON + 2 * DAY)
        row = latest(conn, key)
        assert days(conn, key) == {
            TODAY: (5_000, "exact"),
            TODAY + timedelta(days=1): (100, "rounded"),
            TODAY + timedelta(days=2): (110, "exact"),
        }
        assert (row.followers, row.delta_1d, row.held_at, row.held_followers) == (110, 10, None, None)
        assert due_in(conn, key, NOON + 2 * DAY) == DAY


def test_a_confirmation_on_the_same_day_is_the_days_snapshot(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 100)
        read(conn, key, 101, NOON + HOUR)
        assert days(conn, key)[TODAY] == (101, "exact")
        assert (latest(conn, key).followers, latest(conn, key).delta_1d) == (101, -4_899)


def test_a_confirmation_leaves_the_good_reading_of_the_held_ones_day_alone(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        read(conn, key, 100, NOON + HOUR, precision="rounded")
        read(conn, key, 100, NOON + DAY)
        assert days(conn, key)[TODAY] == (5_000, "exact")
        assert latest(conn, key).delta_1d == -4_900


def test_a_second_reading_near_the_accepted_one_refutes_the_held_one(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 0)
        read(conn, key, 5_010, NOON + DAY)
        assert days(conn, key)[TODAY] == (0, "held"), "it stays in the history as what it was"
        row = latest(conn, key)
        assert (row.followers, row.held_at, row.held_followers) == (5_010, None, None)
        assert row.delta_1d is None, "a held reading is no baseline"
        read(conn, key, 5_020, NOON + 7 * DAY)
        assert latest(conn, key).delta_7d is None, "nor is it one later"
        read(conn, key, 5_030, NOON + 8 * DAY)
        assert latest(conn, key).delta_7d == 20


def test_a_refutation_on_the_same_day_replaces_the_held_snapshot(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 0)
        read(conn, key, 5_001, NOON + HOUR)
        assert days(conn, key)[TODAY] == (5_001, "exact")
        assert latest(conn, key).delta_1d == 1
        assert conn.scalar(text("SELECT sum(snapshots) FROM day_count WHERE platform = 'x'")) == 2


def test_a_reading_near_both_refutes_the_held_one(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 10_000, NOON - DAY)
        read(conn, key, 40_000)
        read(conn, key, 25_000, NOON + DAY)
        assert days(conn, key)[TODAY] == (40_000, "held")
        assert latest(conn, key).followers == 25_000


def test_a_reading_far_from_both_is_held_in_place_of_the_first(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 0)
        read(conn, key, 50_000, NOON + DAY)
        row = latest(conn, key)
        assert (row.followers, row.held_followers, row.held_at) == (5_000, 50_000, NOON + DAY)
        read(conn, key, 50_000, NOON + 2 * DAY)
        assert [precision for _, precision in days(conn, key).values()] == ["exact", "held", "exact", "exact"]


def test_a_reading_older_than_the_held_one_is_accepted_and_leaves_that_one_waiting(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 0, NOON + DAY)
        read(conn, key, 5_100)
        row = latest(conn, key)
        assert (row.followers, row.delta_1d, row.snapshot_date) == (5_100, 100, TODAY)
        assert (row.held_followers, row.held_at, row.held_precision) == (0, NOON + DAY, "exact")
        assert days(conn, key)[TODAY] == (5_100, "exact")


def test_a_hundred_that_are_held_and_confirmed_cost_as_many_statements_as_one(engine: Engine) -> None:
    def statements(size: int) -> list[int]:
        sent: list[list[str]] = []
        with transaction(engine) as conn:
            keys = listed(conn, *(f"of{size}n{n}" for n in range(size)))
            event.listen(conn, "before_cursor_execute", lambda *args: sent[-1].append(args[2]))
            for day, followers in enumerate((5_000, 0, 0)):
                sent.append([])
                job = requested(conn, keys, now=NOON + day * DAY)
                sent.append([])
                saved(conn, job, said(job, followers), now=NOON + day * DAY)
        with reading(engine) as conn:
            assert {latest(conn, key).followers for key in keys} == {0}
        return [len(saving) for saving in sent[1::2]]

    with transaction(engine) as conn:
        dataset.claim(conn, "simulated")
    one = statements(1)
    assert statements(100) == one
    assert max(one) <= 15


# What people see


def test_a_summary_shows_the_accepted_numbers_and_says_that_a_newer_reading_is_held(engine: Engine) -> None:
    def shown(conn: Connection) -> tuple[Any, ...]:
        row = reads.summary(conn, Filters(), Order(), Window(limit=9), Clock(NOON, STALE_AFTER)).rows[0]
        return row.followers, row.delta_1d, row.captured_at, row.precision

    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000, NOON - DAY)
        read(conn, key, 5_100, precision="rounded")
        read(conn, key, 0, NOON + HOUR)
        assert shown(conn) == (5_100, 100, NOON, "held")
        read(conn, key, 5_110, NOON + 2 * HOUR)
        assert shown(conn) == (5_110, 110, NOON + 2 * HOUR, "exact")


@pytest.fixture
def api(database_url: str, redis_url: str) -> Iterator[InProcess]:
    with in_process(fakes.settings(database_url, redis_url)) as api:
        yield api


def test_a_held_day_is_a_gap_in_the_history_with_its_reason(api: InProcess, engine: Engine) -> None:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        for ago, followers in ((2, 5_000), (1, 0), (0, 5_010)):
            read(conn, key, followers, now - ago * DAY, following=7, posts=9)
    held_on = (now - DAY).date()
    answer = api.get(f"/api/history/x/a?from={held_on - DAY}&to={now:%Y-%m-%d}").json
    assert answer["followers"] == [5_000, None, 5_010]
    assert (answer["following"], answer["posts"]) == ([7, None, 7], [9, None, 9])
    assert answer["gaps"] == [
        {
            "from": f"{held_on}",
            "to": f"{held_on}",
            "reason": "held: a suspicious reading that no second one has confirmed",
        }
    ]


def test_clearing_the_demo_leaves_nothing_held(engine: Engine) -> None:
    with transaction(engine) as conn:
        key = listed(conn, "a")[0]
        read(conn, key, 5_000)
        for table in (fact_followers_snapshot, account_latest):
            conn.execute(update(table).values(source="imported"))
        read(conn, key, 0, NOON + DAY)
        writes.clear_simulated(conn, resolving=[])
        row = latest(conn, key)
        assert (row.followers, row.held_followers, row.held_at, row.held_precision) == (5_000, None, None, None)


def test_a_waiting_reading_is_whole_or_not_there(engine: Engine) -> None:
    with pytest.raises(Exception, match="ck_account_latest_held"), transaction(engine) as conn:
        key = listed(conn, "a")[0]
        row = {
            "account_key": key,
            "snapshot_date": TODAY,
            "captured_at": NOON,
            "source": "live",
            "precision": "exact",
        }
        conn.execute(insert(account_latest).values(**row, held_at=NOON))


# Against a model


class Seen(Struct, frozen=True):
    followers: int | None
    at: datetime
    precision: str


class Model:
    """One account in plain Python: its days, the newest accepted reading, and the one that is held."""

    def __init__(self) -> None:
        self.days: dict[date, Seen] = {}
        self.accepted: Seen | None = None
        self.held: Seen | None = None
        self.deltas: list[int | None] = []

    def read(self, seen: Seen) -> None:
        day = seen.at.date()
        newest = [known.at for known in (self.accepted, self.held) if known]
        is_newest = bool(newest) and max(newest) <= seen.at
        if is_newest and self.accepted and far(seen, self.accepted):
            if not self.held or far(seen, self.held):
                self.held = seen
                self.keep(day, structs.replace(seen, precision="held"))
                return
            held_day = self.held.at.date()
            if self.days[held_day].precision == "held":
                self.days[held_day] = structs.replace(self.days[held_day], precision=self.held.precision)
        self.keep(day, seen)
        if is_newest:
            self.held = None
        newest_day = max(day for day, seen in self.days.items() if seen.precision != "held")
        self.accepted = self.days[newest_day]
        self.deltas = [self.delta(self.accepted, newest_day - timedelta(days=n)) for n in (1, 7, 30)]

    def keep(self, day: date, seen: Seen) -> None:
        known = self.days.get(day)
        if known and (known.at > seen.at or (seen.precision == "held" != known.precision)):
            return
        self.days[day] = seen

    def delta(self, seen: Seen, day: date) -> int | None:
        past = self.days.get(day)
        if past is None or past.precision == "held" or past.followers is None or seen.followers is None:
            return None
        return seen.followers - past.followers


def far(seen: Seen, known: Seen) -> bool:
    if seen.followers is None or known.followers is None or max(seen.followers, known.followers) < 1_000:
        return False
    in_days = max((seen.at.date() - known.at.date()).days, 1)
    change_pct = (seen.followers - known.followers) * 100
    return change_pct <= -50 * known.followers or change_pct >= 300 * in_days * known.followers


COUNTS = st.sampled_from([None, 0, 400, 999, 1_000, 2_000, 2_500, 4_000, 8_000, 10_000]) | st.integers(0, 50_000)
HOURS = st.sampled_from([-30, -2, 0, 1, 5, 24, 24, 24, 48, 6 * 24, 7 * 24, 30 * 24])
READINGS = st.lists(st.tuples(HOURS, COUNTS, st.sampled_from(["exact", "rounded"])), min_size=1, max_size=9)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(readings=READINGS)
def test_any_row_of_readings_ends_as_in_the_model(
    engine: Engine, readings: list[tuple[int, int | None, Any]]
) -> None:
    model, now = Model(), NOON
    with transaction(engine) as conn:
        key = listed(conn, uuid.uuid4().hex)[0]
        for hours, followers, precision in readings:
            now += hours * HOUR
            model.read(Seen(followers, now, precision))
            read(conn, key, followers, now, precision=precision)

            row = latest(conn, key)
            held = model.held or Seen(None, None, None)  # type: ignore[arg-type]  # nothing is held
            assert Seen(row.followers, row.captured_at, row.precision) == model.accepted
            assert Seen(row.held_followers, row.held_at, row.held_precision) == held
            assert [row.delta_1d, row.delta_7d, row.delta_30d] == model.deltas
            assert days(conn, key) == {day: (seen.followers, seen.precision) for day, seen in model.days.items()}
            assert due_in(conn, key, now) == (HOUR if model.held and model.held.at == now else DAY)
