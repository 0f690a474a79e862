"""What processes count, added up in the database: each message once, in its own minute."""

import random
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from msgspec import structs
from sqlalchemy import Text, cast, func, select, text

from db import leases, metrics
from db.engine import Engine, reading, transaction
from db.metrics import CLASSES, Counted, Sample
from db.models import metric_hour, metric_minute, metric_sender
from pipeline.metrics import CALL_TIME, CALLS, Times
from tests.fakes import NOON

EVER = NOON - timedelta(days=1_000)
CALL = CALLS.sample(1, "x", "profiles", "core")


def counted(number: int = 1, *samples: Sample, sender: str = "worker-1", at: datetime = NOON) -> Counted:
    return Counted(sender=sender, role="worker", number=number, at=at, samples=samples or (CALL,))


def add(engine: Engine, *messages: Counted, oldest: datetime = EVER) -> None:
    with transaction(engine) as conn:
        metrics.add(conn, messages, oldest=oldest)


def total(engine: Engine) -> float:
    with reading(engine) as conn:
        return sum(one.value for one in metrics.totals(conn))


def timed(*seconds: float, platform: str = "x") -> Sample:
    times = Times()
    for took_s in seconds:
        times.add(took_s)
    return CALL_TIME.timed(times, platform, "core")


def test_a_message_counts_once_however_often_and_in_whatever_order_it_comes(engine: Engine) -> None:
    messages = [counted(number, at=NOON + timedelta(seconds=number)) for number in range(1, 201)]
    random.seed(5)
    thrice = messages * 3
    random.shuffle(thrice)
    for start in range(0, len(thrice), 50):
        add(engine, *thrice[start : start + 50])

    assert total(engine) == 200
    with reading(engine) as conn:
        assert conn.scalar(select(func.sum(metric_minute.c.total))) == 200
        assert conn.scalar(select(func.sum(metric_hour.c.total))) == 200
        assert conn.scalar(select(cast(metric_sender.c.seen, Text))) == "{[1,201)}"


def test_numbers_of_two_processes_are_two_things(engine: Engine) -> None:
    add(engine, counted(1), counted(1, sender="worker-2"), counted(2))

    assert total(engine) == 3


def test_recorders_beside_each_other_count_each_message_once_and_die_of_nothing(engine: Engine) -> None:
    messages = [
        counted(number, CALLS.sample(1, name, "profiles", "core"), timed(0.1), sender=f"worker-{number % 5}")
        for number in range(1, 101)
        for name in ("x", "youtube", "flickr")
    ]
    messages = [structs.replace(one, number=place) for place, one in enumerate(messages, 1)]

    def record(seed: int) -> None:
        mine = random.Random(seed).sample(messages, len(messages))
        for start in range(0, len(mine), 20):
            add(engine, *mine[start : start + 20])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(record, range(4)))

    with reading(engine) as conn:
        found = {(one.name, one.labels[0]): one for one in metrics.totals(conn)}
    assert [found[CALLS.name, name].value for name in ("x", "youtube", "flickr")] == [100, 100, 100]
    assert sum(found[CALL_TIME.name, "x"].buckets or ()) == 300


def test_times_add_up_class_by_class(engine: Engine) -> None:
    add(engine, counted(1, timed(0.001, 5)), counted(2, timed(0.001)))
    add(engine, counted(3, timed(1_000)))

    with reading(engine) as conn:
        (found,) = metrics.totals(conn)
    assert found.value == pytest.approx(1005.002)
    assert found.buckets is not None
    assert len(found.buckets) == CLASSES
    assert [count for count in found.buckets if count] == [2, 1, 1]
    assert found.buckets[-1] == 1, "what took longer than all bounds"


def test_a_late_message_counts_in_its_own_minute_and_hour(engine: Engine) -> None:
    add(engine, counted(2, at=NOON + timedelta(hours=2)))
    add(engine, counted(1, at=NOON + timedelta(seconds=59.9)))

    with reading(engine) as conn:
        assert list(conn.scalars(select(metric_minute.c.at).order_by(metric_minute.c.at))) == [
            NOON,
            NOON + timedelta(hours=2),
        ]
        assert metrics.since(conn) == NOON


def test_the_last_hours_are_exact_to_the_minute(engine: Engine) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    ages = [0, 1, 4, 5, 6, 59, 60, 61, 119, 120, 121, 24 * 60 - 1, 24 * 60, 24 * 60 + 1, 26 * 60]
    add(engine, *(counted(n, timed(0.01), CALL, at=now - timedelta(minutes=age)) for n, age in enumerate(ages, 1)))

    with reading(engine) as conn:
        for minutes in (5, 60, 90, 24 * 60):
            found = {one.name: one for one in metrics.lately(conn, now - timedelta(minutes=minutes))}
            wanted = sum(age <= minutes for age in ages)
            assert sum(found[CALL_TIME.name].buckets or ()) == wanted, minutes
            assert found[CALL_TIME.name].value == pytest.approx(wanted * 0.01)
            assert (found[CALLS.name].value, found[CALLS.name].buckets) == (wanted, None), minutes


def test_from_any_minute_on_it_is_what_the_minutes_add_up_to(engine: Engine) -> None:
    this_hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    hours = [this_hour - timedelta(hours=2), this_hour]
    chance = random.Random(3)
    messages = []
    for number, minute in enumerate((hour + timedelta(minutes=m) for hour in hours for m in range(60)), 1):
        seconds = [chance.random() for _ in range(8)]
        samples = [CALLS.sample(number, "x", "profiles", "core"), timed(*seconds)]
        if minute < hours[0] + timedelta(minutes=29):
            # What ends there isn't shown any more, though its seconds, taken off again, don't come to 0 each time.
            samples.append(CALLS.sample(1, "flickr", "profiles", "core"))
            samples += [timed(took_s, platform=f"ended-{place}") for place, took_s in enumerate(seconds)]
        messages.append(counted(number, *samples, at=minute + timedelta(seconds=30)))
    chance.shuffle(messages)
    for start in range(0, len(messages), 40):  # most come late
        add(engine, *messages[start : start + 40])

    for begin in (hour + timedelta(minutes=m) for hour in hours for m in (0, 1, 28, 29, 30, 31, 59)):
        with reading(engine) as conn:
            found = {(one.name, one.labels): one for one in metrics.lately(conn, begin)}
        wanted = defaultdict(list)
        for sample in (sample for message in messages if message.at >= begin for sample in message.samples):
            wanted[sample.name, sample.labels].append(sample)
        assert found.keys() == wanted.keys(), begin
        for named, parts in wanted.items():
            value = sum(one.value for one in parts)
            if found[named].buckets is None:
                assert found[named].value == value, (begin, named)
            else:
                assert found[named].value == pytest.approx(value), (begin, named)
                of_classes = zip(*(one.buckets or () for one in parts), strict=True)
                assert found[named].buckets == tuple(map(sum, of_classes)), (begin, named)


def test_how_a_process_stands_is_what_its_newest_message_says(engine: Engine) -> None:
    now = datetime.now(UTC)

    def standing(number: int, value: int, at: datetime, sender: str = "api-1") -> Counted:
        gauge = Sample("rollcall_database_pool_in_use", (), value)
        return Counted(sender=sender, role="api", number=number, at=at, samples=(), gauges=(gauge,))

    add(engine, standing(2, 7, now))
    add(engine, standing(1, 3, now - timedelta(seconds=5)))
    add(engine, standing(1, 99, now - timedelta(minutes=5), "api-2"))

    with reading(engine) as conn:
        (process,) = metrics.processes(conn)
    assert (process.role, [one.value for one in process.gauges]) == ("api", [7])


def test_old_minutes_go_and_what_was_counted_in_all_stays(engine: Engine) -> None:
    add(engine, counted(1, at=NOON), counted(2, at=NOON + timedelta(days=40)), counted(1, sender="gone"))
    with transaction(engine) as conn:
        metrics.prune(conn, before=NOON + timedelta(days=1))

    # Whether it was counted nobody knows any more: it isn't.
    add(engine, counted(1, sender="gone"), oldest=NOON + timedelta(days=1))

    assert total(engine) == 3
    with reading(engine) as conn:
        for table in (metric_minute, metric_hour):
            assert conn.scalar(select(func.count()).select_from(table)) == 1


def test_a_sender_learns_what_has_not_arrived(engine: Engine) -> None:
    with reading(engine) as conn:
        assert metrics.missing(conn, "worker-1", [1, 2]) == {1, 2}
    add(engine, counted(1), counted(3))
    with reading(engine) as conn:
        assert metrics.missing(conn, "worker-1", [1, 2, 3, 4]) == {2, 4}
        assert metrics.missing(conn, "worker-1", []) == frozenset()


def test_texts_that_are_no_texts_to_postgresql_cost_nothing(engine: Engine) -> None:
    add(engine, counted(1, Sample("a\0b", ("\0", "'; DROP TABLE lease; --"), 1)), counted(2))

    assert total(engine) == 2


def test_a_lease_is_its_holders_until_it_ends(engine: Engine) -> None:
    def take(holder: str, kept_s: float = 60) -> bool:
        with transaction(engine) as conn:
            return leases.take(conn, "work", holder, kept_s=kept_s)

    assert [take("a"), take("b"), take("a")] == [True, False, True]
    assert take("a", kept_s=-1)
    assert [take("b"), take("a")] == [True, False]
    with transaction(engine) as conn:
        leases.leave(conn, "work", "a")
    assert not take("a"), "nobody gives up another's"
    with transaction(engine) as conn:
        leases.leave(conn, "work", "b")
    assert take("a")


def test_a_month_of_rollups_is_read_by_what_is_shown_not_by_its_length(engine: Engine) -> None:
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    _generate(engine, now, days=30)

    read = {}
    for minutes in (5, 24 * 60):
        with transaction(engine) as conn:
            before = conn.scalar(_ROWS_READ)
            assert len(metrics.lately(conn, now - timedelta(minutes=minutes))) == SERIES
            read[minutes] = conn.scalar(_ROWS_READ) - before
    # Each row twice: for its sum, and for its times.
    assert read[5] <= 2 * SERIES * 7
    # Whole hours, and half of the minutes of the first one.
    assert read[24 * 60] <= 2 * SERIES * (25 + 30)


_ROWS_READ = text("""
    SELECT sum(seq_tup_read + idx_tup_fetch) FROM pg_stat_xact_user_tables
    WHERE relname IN ('metric_minute', 'metric_hour')
""")


SERIES = 20


def _generate(engine: Engine, now: datetime, *, days: int) -> None:
    add(engine, *(counted(n, timed(0.01, platform=f"p{n}")) for n in range(1, SERIES + 1)))
    # An hour has what its minutes have.
    rows = """
        INSERT INTO {table} (at, series_id, total, buckets)
        SELECT at, series_id, {times}, {buckets} FROM metric_series,
            generate_series(date_trunc('{step}', CAST(:now AS timestamptz) - make_interval(days => :days)),
                CAST(:now AS timestamptz), '1 {step}') AS at
    """
    with transaction(engine) as conn:
        sixty = "ARRAY(SELECT 60 * one FROM unnest(buckets) AS one)"
        for step, times, buckets in (("minute", 1, "buckets"), ("hour", 60, sixty)):
            table = f"metric_{step}"
            conn.execute(text(f"TRUNCATE {table}"))
            filled = rows.format(table=table, step=step, times=times, buckets=buckets)
            conn.execute(text(filled), {"now": now, "days": days})
        conn.execute(text("ANALYZE"))
