"""The pipeline without limits: what an account costs from claim to purge, a tick, and a worker's memory."""

import io
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import linear_regression, median, quantiles

from msgspec import Struct, field
from sqlalchemy import text

from db import partitions
from db.engine import Engine, reading, transaction
from pipeline import platforms
from pipeline.app import make_celery
from pipeline.messages import SEQUENCE_KEY, Purger
from pipeline.plan import Planner
from pipeline.records import Profile
from pipeline.slots import Slots
from tests.jobs import running as running_job
from tests.jobs import saved
from tests.performance.accounts import load_due
from tests.performance.machine import Machine, Metered, cpu_s, machine, wait
from tests.performance.process import NOOP, noop_app, noop_queue
from tests.performance.report import Chapter, Line, middle
from tests.performance.rounds import Rounds

WORKERS = 2
BATCH = 100
MIB = 1 << 20

# No limit, and a queue that the workers never find empty.
UNLIMITED = {"RATE_LIMIT_X_PROFILES": "1000000/s", "PLAN_AHEAD_S": "0.1"}
WORKER_STAGES = ("limit", "take", "fetch", "parse", "decide", "save", "purge", "metric", "commit and log")
PLANNER_STAGES = ("plan", "publish")


class Size(Struct, frozen=True):
    """How much is done; `swept` accounts by the size of a batch, and `due` accounts of the two planners.

    Of the accounts that are swept there are so many that each sweep takes some seconds.
    """

    rounds: Rounds = Rounds(3, 6)
    swept: Mapping[int, int] = field(default_factory=lambda: {BATCH: 10_000, 1: 500})
    noops: int = 2_000
    jobs_of_memory: int = 10_000
    saves: int = 20
    ticks: int = 60
    due: tuple[int, int] = (1_000, 1_000_000)


QUICK = Size(
    rounds=Rounds(1, 1),
    swept={BATCH: 2_000, 1: 100},
    noops=500,
    jobs_of_memory=1_000,
    saves=5,
    ticks=12,
    due=(1_000, 20_000),
)


class Sweep(Struct, frozen=True):
    """What reading so many accounts took: seconds from the first claim to the last commit, and CPU by stage."""

    accounts: int
    jobs: int
    seconds: float
    cpu_s: Mapping[str, float]

    @property
    def per_s(self) -> float:
        return self.accounts / self.seconds

    def cpu_per_1000(self, stage: str) -> float:
        return self.cpu_s[stage] * 1000 / self.accounts


class Fleet:
    """The processes of a sweep; the planner is started anew for each, since it says the size of a batch."""

    def __init__(self, running: Machine, workers: int, profile: Path | None = None) -> None:
        self._machine = running
        self._simulator = running.simulate()
        self.workers = [running.metered("worker", **_profiled(profile, f"worker{n}")) for n in range(workers)]
        self._recorder = running.start("workers.recorder", log="recorder")

    def sweep(self, accounts: int, batch: int) -> Sweep:
        """Read the first so many accounts, a day after they were last read."""
        _turn_back_a_day(self._machine.engine)
        with self.planning(batch) as planner:
            before, purges = self._cpu(planner), self._purges()
            began = _make_due(self._machine.engine, accounts)
            wait(lambda: _is_done(self._machine.engine, began), "every account read", within_s=300, every_s=0.1)
            jobs, seconds = _took(self._machine.engine, began)
            wait(lambda: self._purges() >= purges + jobs, "every purge")
            return Sweep(accounts, jobs, seconds, _less(self._cpu(planner), before))

    @contextmanager
    def planning(self, batch: int) -> Iterator[Metered]:
        """Run a planner that puts so many accounts into a call."""
        planner = self._machine.metered("planner", BENCH_BATCH=str(batch))
        yield planner
        self._machine.end(planner.process)

    def _purges(self) -> int:
        return int(self._machine.redis.get(SEQUENCE_KEY) or 0)

    def _cpu(self, planner: Metered) -> Counter[str]:
        """Return the CPU seconds so far, by stage and by process."""
        found = Counter({"simulator": cpu_s(self._simulator), "recorder": cpu_s(self._recorder)})
        found.update(self._machine.servers_cpu_s())
        for name, processes, stages in (
            ("worker", self.workers, WORKER_STAGES),
            ("planner", [planner], PLANNER_STAGES),
        ):
            for process in processes:
                counts = process.counts
                spent = {f"{name}: {stage}": counts["cpu_s"].get(stage, 0.0) for stage in stages}
                found.update(spent)
                found[f"{name}: framework"] += counts["process_s"] - sum(spent.values())
                found[name] += counts["process_s"]
        return found


def run(profile: Path | None = None, *, quick: bool = False) -> Iterator[Chapter]:
    """Measure everything, and yield each chapter as it is found."""
    size = QUICK if quick else Size()
    with machine() as running:
        yield from _sweeps(running, profile, size)
    with machine() as running:
        yield _saving(running, size)
    with machine() as running:
        yield _memory(running, size.jobs_of_memory)
    yield _ticks(size)


def _sweeps(running: Machine, profile: Path | None, size: Size) -> Iterator[Chapter]:
    """Compare sweeps in batches with sweeps one by one, and with tasks that do nothing, in turn."""
    running.environ |= UNLIMITED
    load_due(running.engine, max(size.swept.values()), now=datetime.now(UTC), posts_due=False)
    fleet = Fleet(running, WORKERS, profile)
    noops = [running.metered("noop") for _ in range(WORKERS)]
    sweeps: dict[int, list[Sweep]] = {batch: [] for batch in size.swept}
    tasks_per_s: list[float] = []
    for number in size.rounds.until_steady(lambda: _throughput(sweeps, tasks_per_s).lines):
        found = {batch: fleet.sweep(accounts, batch) for batch, accounts in size.swept.items()}
        per_s = _noops_per_s(running, size.noops)
        if number:  # the one before reads each account for the first time
            tasks_per_s.append(per_s)
            for batch, one in found.items():
                sweeps[batch].append(one)
    yield _throughput(sweeps, tasks_per_s)
    yield from (_cpu_chapter(batch, sweeps[batch]) for batch in size.swept)
    if profile is not None:
        yield _statements(fleet.workers)
    for worker in (*fleet.workers, *noops):
        running.end(worker.process)


def _throughput(sweeps: Mapping[int, Sequence[Sweep]], tasks_per_s: Sequence[float]) -> Chapter:
    batched, single = ([one.per_s for one in sweeps[batch]] for batch in (BATCH, 1))
    times_single = [a / b for a, b in zip(batched, single, strict=True)]
    times_noop = [a / b for a, b in zip(batched, tasks_per_s, strict=True)]
    return Chapter(
        "Throughput without limits",
        [
            middle(f"batches of {BATCH}, as a multiple of batches of 1", times_single, "times", at_least=20),
            middle(f"accounts in batches of {BATCH}, as a multiple of Celery's no-op tasks", times_noop, "times"),
            middle(f"in batches of {BATCH}", batched, "accounts/s"),
            middle("in batches of 1", single, "accounts/s"),
            middle("Celery's no-op", tasks_per_s, "tasks/s"),
        ],
        fails_when="each account has a commit of its own: batches of 100 were 8 times batches of 1",
    )


def _cpu_chapter(batch: int, sweeps: Sequence[Sweep]) -> Chapter:
    names = sorted(sweeps[0].cpu_s, key=lambda name: -median(one.cpu_s[name] for one in sweeps))
    processes = [name for name in names if ":" not in name]
    total = [sum(one.cpu_per_1000(name) for name in processes) for one in sweeps]
    lines = [middle("altogether", total, "s")]
    for name in processes:
        lines.append(middle(name, [one.cpu_per_1000(name) for one in sweeps], "s"))
        stages = [stage for stage in names if stage.startswith(f"{name}:")]
        lines += [
            middle(f"  {stage.partition(': ')[2]}", [one.cpu_per_1000(stage) for one in sweeps], "s")
            for stage in stages
        ]
    return Chapter(f"CPU seconds per 1,000 accounts, in batches of {batch}", lines)


def _statements(workers: Sequence[Metered]) -> Chapter:
    """Show what a profiled worker waited for the database, by the function of `db` that asked it."""
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for worker in workers:
        for sender, (count, seconds) in worker.counts["statements"].items():
            found[sender].append((count, seconds))
    sums = {sender: (sum(n for n, _ in counts), sum(s for _, s in counts)) for sender, counts in found.items()}
    lines = [
        Line(sender, seconds * 1000 / count, f"ms, {count:,} times")
        for sender, (count, seconds) in sorted(sums.items(), key=lambda one: -one[1][1])
    ]
    return Chapter("Time to the answer of each statement, both batch sizes together", lines)


def _noops_per_s(running: Machine, tasks: int) -> float:
    """Return how many tasks that do nothing as many of Celery's own workers do in a second."""
    celery = noop_app(running.settings())
    began = time.perf_counter()
    with celery.producer_pool.acquire(block=True) as producer, producer.batch():
        for number in range(tasks):
            celery.send_task(NOOP, args=[str(number)], queue=noop_queue(), producer=producer)
    redis = running.redis
    wait(lambda: not (redis.llen(noop_queue()) or redis.hlen("unacked")), "every no-op task", every_s=0.005)
    return tasks / (time.perf_counter() - began)


def _saving(running: Machine, size: Size) -> Chapter:
    """Compare saving a job with a plain COPY of as many bare rows, in turn."""
    load_due(running.engine, BATCH, now=datetime.now(UTC), posts_due=False)
    with transaction(running.engine) as conn:
        partitions.ensure(conn, today=datetime.now(UTC).date())
        conn.execute(
            text("CREATE TABLE plain (account_key bigint, day date, followers bigint, captured_at timestamptz)")
        )
        # The disk's time would hide the work's.
        conn.execute(text("ALTER DATABASE rollcall SET synchronous_commit = off"))
    running.engine.dispose()
    ratios = list[float]()

    def lines() -> list[Line]:
        return [middle("as a multiple of a plain COPY of its rows", ratios, "times")]

    for number in size.rounds.until_steady(lines):
        times = [
            (_saved_s(running.engine, number * size.saves + n), _copied_s(running.engine)) for n in range(size.saves)
        ]
        if number:
            ratios.append(median(saved for saved, _ in times) / median(copied for _, copied in times))
    return Chapter(f"Saving a job of {BATCH}", lines())


def _saved_s(engine: Engine, followers: int) -> float:
    now = datetime.now(UTC)
    with transaction(engine) as conn:
        conn.execute(text("UPDATE scrape_state SET next_due_at = :now WHERE subject = 'profile'"), {"now": now})
        job = running_job(conn, batch=BATCH, now=now)
    profiles = [
        Profile(account_key=one.account_key, external_id=str(one.external_id), handle=one.handle, followers=followers)
        for one in job.accounts
    ]
    began = time.perf_counter()
    with transaction(engine) as conn:
        assert saved(conn, job, profiles, now=now) is not None
    return time.perf_counter() - began


def _copied_s(engine: Engine) -> float:
    now = datetime.now(UTC)
    data = io.StringIO("".join(f"{n}\t{now:%Y-%m-%d}\t{n}\t{now.isoformat()}\n" for n in range(BATCH)))
    connection = engine.raw_connection()
    try:
        began = time.perf_counter()
        with connection.cursor() as cursor:
            cursor.copy_expert("COPY plain FROM STDIN", data)
        connection.commit()
        return time.perf_counter() - began
    finally:
        connection.close()


def _memory(running: Machine, jobs_wanted: int) -> Chapter:
    """Watch one worker's memory over so many jobs of one account."""
    running.environ |= UNLIMITED
    load_due(running.engine, jobs_wanted, now=datetime.now(UTC), posts_due=False)
    fleet = Fleet(running, 1)
    (worker,) = fleet.workers
    sizes: list[tuple[int, int]] = []
    with fleet.planning(1):
        began = _make_due(running.engine, jobs_wanted)
        while len(sizes) < 2 or sizes[-1][0] < jobs_wanted:
            time.sleep(0.5)
            with reading(running.engine) as conn:
                done = conn.scalar(
                    text("SELECT count(*) FROM scrape_job WHERE state = 'succeeded' AND created_at >= :began"),
                    {"began": began},
                )
            sizes.append((done, worker.rss_bytes))
    warm = [(jobs, size) for jobs, size in sizes if jobs >= jobs_wanted // 5]
    slope = linear_regression(*zip(*warm, strict=True)).slope
    return Chapter(
        f"A worker's memory over {jobs_wanted:,} jobs",
        [
            Line(
                f"growth per 10,000 jobs, after the first {jobs_wanted // 5:,}",
                slope * 10_000 / MIB,
                "MiB",
                at_most=4,
            ),
            Line("at the end", sizes[-1][1] / MIB, "MiB"),
        ],
        fails_when="each job leaves 3 kB behind: 41 MiB more per 10,000 jobs",
    )


def _ticks(size: Size) -> Chapter:
    """Compare ticks with few and with very many accounts due, and watch the broker's memory."""
    with machine() as few, machine() as many:
        found = {}
        planners = {}
        for count, running in zip(size.due, (few, many), strict=True):
            running.environ["SIMULATOR_URL"] = "http://nowhere"  # credentials aren't lacking; nothing is called
            load_due(running.engine, count, platforms=tuple(platforms.load()), now=datetime.now(UTC))
            with transaction(running.engine) as conn:
                partitions.ensure(conn, today=datetime.now(UTC).date())
            found[count] = []
            planners[count] = planner_of(running)
        memory = []
        for _ in range(size.ticks):
            for count, running in zip(size.due, (few, many), strict=True):
                found[count].append(tick_ms(running.engine, planners[count]))
            memory.append(many.redis.info("memory")["used_memory"] / MIB)
    warm = {count: ticks[size.ticks // 4 :] for count, ticks in found.items()}
    few_due, many_due = size.due
    few_ms, many_ms = (warm[count] for count in size.due)
    return Chapter(
        "A planner's tick, all platforms at their limits",
        [
            middle(
                f"{many_due:,} accounts due, as a multiple of {few_due:,}",
                [more / fewer for more, fewer in zip(many_ms, few_ms, strict=True)],
                "times",
                at_most=3,
            ),
            middle(f"a tick with {many_due:,} due", many_ms, "ms", at_most=50),
            Line("  99 of 100 ticks within", quantiles(many_ms, n=100)[98], "ms"),
            middle(f"a tick with {few_due:,} due", few_ms, "ms"),
            Line(f"the broker's memory with {many_due:,} due", max(memory), "MiB", at_most=16),
        ],
        fails_when="the index of what is due is left out: 31 times, with no more than 100,000 due",
    )


def planner_of(running: Machine) -> Planner:
    """Return a planner in this process."""
    settings = running.settings()
    celery = make_celery(settings)
    return Planner(settings, running.engine, celery, Purger(celery, running.redis), Slots(running.redis))


def tick_ms(engine: Engine, planner: Planner) -> float:
    """Return what a tick takes a second after the one before, the workers having done a second's work."""
    with transaction(engine) as conn:
        conn.execute(_FINISH_A_SECOND)
    began = time.perf_counter()
    planner.tick(datetime.now(UTC))
    return (time.perf_counter() - began) * 1000


# Of five seconds' allowance that is kept queued, the oldest fifth; its accounts are due again, behind all others.
_FINISH_A_SECOND = text("""
    WITH done AS (
        SELECT job_id FROM (
            SELECT job_id, row_number() OVER each AS n, count(*) OVER (PARTITION BY platform, kind) AS queued
            FROM scrape_job WHERE state = 'queued'
            WINDOW each AS (PARTITION BY platform, kind ORDER BY created_at)
        ) AS numbered
        WHERE n * 5 <= queued + 4
    ), closed AS (
        UPDATE scrape_job SET state = 'succeeded', finished_at = now() FROM done WHERE scrape_job.job_id = done.job_id
    )
    UPDATE scrape_state SET job_id = NULL, next_due_at = now()
    FROM done WHERE scrape_state.job_id = done.job_id
""")


def _turn_back_a_day(engine: Engine) -> None:
    """Let every reading be a day older, so that the next one is a new day's."""
    with transaction(engine) as conn:
        conn.execute(text("DELETE FROM fact_followers_snapshot WHERE snapshot_date < CURRENT_DATE"))
        for table in ("fact_followers_snapshot", "account_latest"):
            conn.execute(
                text(
                    f"UPDATE {table} SET snapshot_date = snapshot_date - 1, captured_at = captured_at - interval '1 day'"
                )
            )
        partitions.ensure(conn, today=datetime.now(UTC).date())
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("VACUUM ANALYZE"))


def _make_due(engine: Engine, accounts: int) -> datetime:
    """Make the profiles of the first so many accounts due; return since when they are."""
    now = datetime.now(UTC)
    due = text("UPDATE scrape_state SET next_due_at = :now WHERE subject = 'profile' AND account_key <= :last")
    later = text("UPDATE scrape_state SET next_due_at = :later WHERE subject = 'profile'")
    with transaction(engine) as conn:
        conn.execute(later, {"later": now + timedelta(days=1)})
        conn.execute(due, {"now": now, "last": accounts})
    return now


def _is_done(engine: Engine, began: datetime) -> bool:
    open_work = text("""
        SELECT EXISTS (SELECT FROM scrape_state WHERE next_due_at <= :began)
            OR EXISTS (SELECT FROM scrape_job WHERE state IN ('queued', 'running'))
    """)
    with reading(engine) as conn:
        return not conn.scalar(open_work, {"began": began})


def _took(engine: Engine, began: datetime) -> tuple[int, float]:
    """Return the number of jobs since `began`, and the seconds from the first claim to the last commit."""
    with reading(engine) as conn:
        jobs, bad, seconds = conn.execute(
            text("""
                SELECT count(*), count(*) FILTER (WHERE state <> 'succeeded'),
                    extract(epoch FROM max(finished_at) - min(created_at))
                FROM scrape_job WHERE created_at >= :began
            """),
            {"began": began},
        ).one()
    assert not bad, f"{bad} of {jobs} jobs didn't succeed"
    return jobs, float(seconds)


def _less(after: Mapping[str, float], before: Mapping[str, float]) -> dict[str, float]:
    return {name: spent - before[name] for name, spent in after.items()}


def _profiled(folder: Path | None, name: str) -> dict[str, str]:
    return {} if folder is None else {"BENCH_PROFILE": str(folder / f"{name}.prof")}
