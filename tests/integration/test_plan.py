"""What a tick gives out: late, in the right order, at its pace, and once, however many planners there are."""

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from kombu.exceptions import OperationalError
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import event, func, select, text

from db import claims, writes
from db.engine import Engine, make_engine, reading, transaction
from db.models import dim_account, scrape_job, scrape_state
from pipeline.accounts import import_list
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.messages import Purger
from pipeline.plan import JOBS_A_TICK, Planner, nexts_of
from pipeline.records import Account, Job, Kind, Outcome
from pipeline.slots import RATES_KEY, Slots, next_key
from tests import fakes
from tests.jobs import LEASE, said

NOON = fakes.NOON
SECOND = timedelta(seconds=1)
PROFILES = "scrape.x.profiles"


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


class Plans:
    """A planner of a test, and what it has published."""

    def __init__(self, database_url: str, redis: Redis, engine: Engine, **environ: str) -> None:
        address = redis.connection_pool.connection_kwargs["path"]
        self.settings = fakes.settings(
            database_url, f"unix://{address}", **{"SIMULATOR_URL": "http://127.0.0.1:9", **environ}
        )
        self.redis, self.engine = redis, engine
        celery = make_celery(self.settings)
        self.planner = Planner(self.settings, engine, celery, Purger(celery, redis), Slots(redis))
        self.enqueuer = Enqueuer(self.settings, engine, celery)

    def tick(self, now: datetime = NOON) -> list[str]:
        """Plan once; return the ids of the jobs that were published, in the order of the lanes."""
        before = self.published()
        self.planner.tick(now)
        after = self.published()
        return [job_id for lane, ids in after.items() for job_id in ids[len(before[lane]) :]]

    def published(self) -> dict[str, list[str]]:
        """Return the ids in the queues of X, oldest first, by lane."""
        return {
            lane: [json.loads(raw)["headers"]["id"] for raw in reversed(self.redis.lrange(f"x.{lane}", 0, -1))]
            for lane in ("user_requested", "core", "retry")
        }

    def opens_in(self, seconds: float, task: str = PROFILES) -> None:
        self.redis.set(next_key(task, "1"), time.time() + seconds)


@pytest.fixture
def plans(database_url: str, redis: Redis, engine: Engine) -> Plans:
    return Plans(database_url, redis, engine)


def _listed(engine: Engine, count: int, *, now: datetime = NOON) -> None:
    """Import accounts of X as if their ids were known: their first reading is one of profiles."""
    rows = [f"https://x.com/agency{n}" for n in range(count)]
    report = import_list(engine, "\n".join(["url", *rows]).encode(), now=now)
    assert report.counts == {"imported": count}, report.rows[:3]
    with transaction(engine) as conn:
        conn.execute(text("UPDATE scrape_state SET kind = 'profiles'"))


def _sizes(engine: Engine, job_ids: Sequence[str]) -> list[int]:
    sizes = select(func.cardinality(scrape_job.c.accounts)).where(scrape_job.c.job_id.in_(job_ids))
    with reading(engine) as conn:
        return sorted(conn.scalars(sizes), reverse=True)


def _read(plans: Plans, job_ids: Sequence[str], now: datetime) -> None:
    """Do these jobs as a worker does, all accounts well."""
    for job_id in job_ids:
        with transaction(plans.engine) as conn:
            job = claims.take(conn, job_id=job_id, now=now, lease_until=now + LEASE)
            assert job is not None
            nexts = nexts_of(plans.settings, job, [Outcome(a.account_key, "ok") for a in job.accounts], now)
            profiles = [] if job.kind == "posts" else said(job)
            writes.save(conn, job, nexts=nexts, profiles=profiles, source="simulated", now=now, reads_posts=False)


def test_accounts_are_given_out_only_for_the_slots_of_the_next_seconds(plans: Plans) -> None:
    _listed(plans.engine, 500)

    assert len(plans.tick()) == 2, "300 calls in 15 minutes are two in five seconds"
    assert plans.tick() == []


def test_with_a_long_time_between_two_calls_nothing_is_given_out_until_the_slot_is_near(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine, RATE_LIMIT_X_PROFILES="1000/d")
    _listed(plans.engine, 500)
    plans.opens_in(80)
    assert plans.tick() == []

    plans.opens_in(4)
    assert len(plans.tick()) == 1


def test_each_credential_has_slots_of_its_own_and_one_that_is_paused_has_none(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    keys = {"X_BEARER_TOKEN": "a", "X_BEARER_TOKEN_2": "b", "SIMULATOR_URL": ""}
    plans = Plans(database_url, redis, engine, RATE_LIMIT_X_PROFILES="1000/d", **keys)
    _listed(plans.engine, 500)
    plans.opens_in(80)
    assert len(plans.tick()) == 1

    with transaction(engine) as conn:
        for label in ("1", "2"):
            conn.execute(
                text("INSERT INTO platform_pause VALUES ('x', :label, :until, 'r', 'limited')"),
                {"label": label, "until": NOON + timedelta(hours=1)},
            )
        conn.execute(text("UPDATE scrape_job SET state = 'succeeded'"))
    assert plans.tick() == []


@pytest.mark.parametrize(("space_s", "jobs"), [(1.0, 5), (600.0, 1), (0.0, 5)])
def test_a_rate_that_was_set_while_running_is_planned_by(plans: Plans, space_s: float, jobs: int) -> None:
    _listed(plans.engine, 500)
    plans.redis.hset(RATES_KEY, PROFILES, json.dumps({"space_s": space_s, "rate": "as set"}))

    assert len(plans.tick()) == jobs


def test_without_redis_no_more_is_claimed_than_the_settings_give_and_no_tick_is_lost(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine)
    _listed(plans.engine, 500)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = Redis(port=unused.getsockname()[1], retry=Retry(NoBackoff(), 0))
        planner = Planner(
            plans.settings,
            engine,
            make_celery(plans.settings),
            Purger(make_celery(plans.settings), redis),
            Slots(gone),
        )
        assert planner.tick(NOON) == 2
        assert planner.tick(NOON) == 0


def test_accounts_without_a_credential_say_so_once_a_minute_and_also_after_a_clock_was_set_back(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    planner = Plans(database_url, redis, engine, SIMULATOR_URL="").planner
    planner.explain(NOON)
    _listed(engine, 1)

    planner.explain(NOON + 59 * SECOND)
    assert _reasons(engine) == [None]
    planner.explain(NOON - 3600 * SECOND)
    assert _reasons(engine) == ["needs X_BEARER_TOKEN"]


def _reasons(engine: Engine) -> list[str | None]:
    with reading(engine) as conn:
        return list(conn.scalars(select(scrape_state.c.reason)))


def test_what_the_broker_does_not_take_goes_out_with_the_first_tick_after_its_return(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine)
    _listed(engine, 500)
    with reading(engine) as conn:
        asked = list(conn.scalars(select(dim_account.c.account_key).order_by(dim_account.c.account_key).limit(100)))
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        gone = fakes.settings(
            database_url,
            plans.settings.redis_url.get_secret_value(),
            BROKER_URL=f"redis://127.0.0.1:{unused.getsockname()[1]}",
            SIMULATOR_URL="http://127.0.0.1:9",
        )
        celery = make_celery(gone)
        requested = Enqueuer(gone, engine, celery).request(asked, requested_by="a person")
        with pytest.raises(OperationalError):
            Planner(gone, engine, celery, Purger(celery, redis), Slots(redis)).tick(NOON)

    assert requested.broker_error
    with reading(engine) as conn:
        waiting = set(conn.scalars(select(scrape_job.c.job_id)))
    assert set(plans.tick(datetime.now(UTC))) == waiting
    assert len(waiting) == 2


def test_a_tick_claims_a_bounded_number_of_jobs_and_the_next_goes_on(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine, RATE_LIMIT_X_PROFILES="100/s")
    _listed(plans.engine, 100 * (JOBS_A_TICK + 3))

    assert (len(plans.tick()), plans.planner.is_behind) == (JOBS_A_TICK, True)
    assert (len(plans.tick()), plans.planner.is_behind) == (3, False)


def test_a_tick_without_anything_due_asks_the_database_a_few_questions_however_many_platforms_there_are(
    plans: Plans,
) -> None:
    asked: list[str] = []

    def hear(_conn: object, _cursor: object, statement: str, *_: object) -> None:
        asked.append(statement)

    plans.tick()
    event.listen(plans.engine, "before_cursor_execute", hear)
    plans.tick()
    event.remove(plans.engine, "before_cursor_execute", hear)
    assert len(asked) <= 5, asked


def test_accounts_read_together_are_read_together_the_next_day_in_calls_as_full(plans: Plans) -> None:
    _listed(plans.engine, 250)
    now = NOON
    while ids := plans.tick(now):
        _read(plans, ids, now)
        now += 3 * SECOND

    with reading(plans.engine) as conn:
        due = Counter(conn.scalars(select(scrape_state.c.next_due_at)))
    assert sorted(due.values(), reverse=True) == [100, 100, 50]
    for at in sorted(due):
        assert plans.tick(at - SECOND) == []
        ids = plans.tick(at)
        assert _sizes(plans.engine, ids) == [due[at]]
        _read(plans, ids, at)


def test_an_account_added_later_fills_the_last_call_instead_of_making_one_of_its_own(plans: Plans) -> None:
    _listed(plans.engine, 150)
    import_list(plans.engine, b"url\nhttps://x.com/goose\nhttps://pond.example/@duck", now=NOON)

    with reading(plans.engine) as conn:
        seats = conn.execute(select(dim_account.c.platform, dim_account.c.seat).order_by(dim_account.c.account_key))
        assert [tuple(row) for row in seats][-2:] == [("x", 150), ("mastodon", 0)]


def test_a_platform_and_an_account_have_intervals_of_their_own(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine, READ_INTERVAL_S_X="7200", POSTS_INTERVAL_S_X="604800")
    _listed(engine, 1)
    import_list(engine, b"url,read_interval\nhttps://x.com/goose,7d\nhttps://bsky.app/profile/a.example,", now=NOON)
    waits: dict[tuple[str, Kind], float] = {}
    with reading(engine) as conn:
        rows = conn.execute(select(dim_account).order_by(dim_account.c.account_key)).all()
    for row in rows:
        account = Account(row.account_key, row.platform, row.handle, row.url, read_interval_s=row.read_interval_s)
        for kind in ("profiles", "posts"):
            job = Job(job_id="", platform=row.platform, kind=kind, lane="core", accounts=(account,))
            (decided,) = nexts_of(plans.settings, job, [Outcome(row.account_key, "ok")], NOON)
            waits[row.handle if row.read_interval_s else row.platform, kind] = (
                decided.due_at - NOON
            ).total_seconds() / 86_400

    own = next(row.handle for row in rows if row.read_interval_s)
    for (of, kind), days in {
        ("x", "profiles"): 1 / 12,
        ("x", "posts"): 7,
        (own, "profiles"): 7,
        (own, "posts"): 7,
        ("bluesky", "profiles"): 1,
        ("bluesky", "posts"): 1,
    }.items():
        assert days / 24 < waits[of, kind] <= days * 25 / 24, (of, kind)


def test_a_person_s_long_queue_is_not_published_again_and_again_while_it_waits(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine)
    _listed(engine, 3_000, now=NOON + timedelta(days=1))
    with reading(engine) as conn:
        keys = list(conn.scalars(select(dim_account.c.account_key)))
    plans.enqueuer.request(keys, requested_by="a person")
    began = datetime.now(UTC)
    (queue,) = [ids for lane, ids in plans.published().items() if lane == "user_requested"]
    assert len(queue) == 30

    again: list[str] = []
    for second in range(0, 600, 5):
        now = began + second * SECOND
        if second % 20 == 0 and queue:  # slower than planned for
            _read(plans, [queue.pop(0)], now)
        again += plans.tick(now)

    assert max(Counter(again).values(), default=0) <= 2
    assert len(again) <= 30


def test_what_a_flushed_broker_lost_goes_out_again_after_one_lease_at_the_pace_of_its_limit(plans: Plans) -> None:
    _listed(plans.engine, 1_000, now=NOON + timedelta(days=1))
    with reading(plans.engine) as conn:
        keys = list(conn.scalars(select(dim_account.c.account_key)))
    plans.enqueuer.request(keys, requested_by="a person")
    wanted = set(plans.published()["user_requested"])
    began = datetime.now(UTC)
    plans.redis.flushall()

    lease = timedelta(seconds=plans.settings.job_lease_s)
    assert plans.tick(began + lease - 5 * SECOND) == []
    done: set[str] = set()
    now = began + lease + SECOND
    while done < wanted:
        ids = plans.tick(now)
        assert 0 < len(ids) <= 2
        _read(plans, ids, now)
        done |= set(ids)
        now += 6 * SECOND
    assert done == wanted


def test_under_a_permanent_core_load_every_fifth_job_is_of_accounts_that_failed_before(plans: Plans) -> None:
    _listed(plans.engine, 4_000)
    with transaction(plans.engine) as conn:
        conn.execute(text("UPDATE scrape_state SET failures = 1 WHERE account_key % 2 = 0"))
    lanes: list[str] = []
    now = NOON
    for _ in range(10):
        ids = plans.tick(now)
        with reading(plans.engine) as conn:
            lanes += conn.scalars(select(scrape_job.c.lane).where(scrape_job.c.job_id.in_(ids)))
        _read(plans, ids, now)
        now += 6 * SECOND

    assert len(lanes) == 20
    assert Counter(lanes) == {"core": 16, "retry": 4}


def test_retries_use_the_calls_that_nothing_else_wants(plans: Plans) -> None:
    _listed(plans.engine, 300)
    with transaction(plans.engine) as conn:
        conn.execute(text("UPDATE scrape_state SET failures = 1"))

    assert len(plans.tick()) == 2


def test_ten_planners_at_once_claim_nothing_twice_and_leave_nothing(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    _listed(engine, 2_000)
    deadline = time.monotonic() + 60
    together = threading.Barrier(10)

    def plan(_: int) -> None:
        mine = make_engine(database_url, pool_size=1, application_name="planner")
        plans = Plans(database_url, redis, mine, RATE_LIMIT_X_PROFILES="1000/s")
        together.wait(30)
        while time.monotonic() < deadline and _unclaimed(mine):
            plans.planner.tick(NOON)
        mine.dispose()

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(plan, range(10)))
    with reading(engine) as conn:
        given = [key for keys in conn.scalars(select(scrape_job.c.accounts)) for key in keys]
        on_their_way = conn.scalar(select(func.count()).where(scrape_state.c.job_id.is_not(None)))
        jobs = set(conn.scalars(select(scrape_job.c.job_id)))
    assert (len(given), len(set(given)), on_their_way) == (2_000, 2_000, 2_000)
    published = [json.loads(raw)["headers"]["id"] for raw in redis.lrange("x.core", 0, -1)]
    assert sorted(published) == sorted(jobs)


def _unclaimed(engine: Engine) -> bool:
    with reading(engine) as conn:
        return bool(conn.scalar(select(func.count()).where(scrape_state.c.job_id.is_(None))))


def test_a_job_begun_too_often_fails_with_its_reason_and_its_accounts_come_again(
    database_url: str, redis: Redis, engine: Engine
) -> None:
    plans = Plans(database_url, redis, engine, JOB_MAX_ATTEMPTS="2")
    _listed(engine, 3)
    now = NOON
    (job_id,) = plans.tick(now)
    for _ in range(2):
        with transaction(engine) as conn:
            assert claims.take(conn, job_id=job_id, now=now, lease_until=now + SECOND)
        now += 2 * SECOND
        plans.tick(now)

    with reading(engine) as conn:
        job = conn.execute(select(scrape_job)).one()
        states = conn.execute(select(scrape_state)).all()
    assert (job.state, job.reason) == ("failed", "given up: begun 2 times, and no worker lived to finish it")
    assert {(state.result, state.failures, state.job_id) for state in states} == {("failed", 1, None)}
    assert all(now <= state.next_due_at <= now + timedelta(minutes=1) for state in states)
