"""A soak: sweeps without an end, load on the API, and everything killed or restarted again and again; then an account of it."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from random import Random

import msgspec
import psutil
import redis
from msgspec import Struct
from sqlalchemy import text

from db import metrics
from db.engine import reading, transaction
from pipeline.lanes import LANES, queue_name
from pipeline.metrics import CALLS
from tests.performance.load import checks, ledger
from tests.performance.load.blows import Blows
from tests.performance.load.checks import Blow, Verdict
from tests.performance.load.generator import Offered, Order
from tests.performance.load.site import Sample, Site, generator, site
from tests.performance.load.watching import Progress, Watch
from tests.serving import Gunicorn

ACCOUNTS = {"bluesky": 500, "x": 300, "mastodon": 60, "youtube": 60}
LEASE_S = 20.0
INTERVAL_S = 20
ENVIRON = {
    "READ_INTERVAL_S": str(INTERVAL_S),
    "JOB_LEASE_S": f"{LEASE_S:g}",
    "HTTP_DEADLINE_S": "10",
    "PLAN_AHEAD_S": "2",
    "BACKOFF_BASE_S": "0.5",
    "BACKOFF_CAP_S": "4",
}
SPOILED = 0.03
RATE = 100.0
# So few accounts are asked for that an API process holds all that it is to hold within two minutes: what it gains later
# is a leak. With all of them, by Zipf's law, the rarest are asked for first after an hour.
ASKED = 100
# Before the first blow.
WARM_S = 15.0
# After the last one: long enough, in a long soak, for memory to be seen in processes that live.
LEAST_CALM_S, CALM = 30.0, 0.25
# Between two blows: more often the keepers' waits would grow so long that hardly anything runs.
LEAST_BETWEEN_S, MOST_BETWEEN_S = 4.0, 20.0
# The next blow falls when the API answers this soon again: what several would do together says little about each.
SOON_S, SOON_WITHIN_S = 1.0, 60.0
QUIET_WITHIN_S = 120.0
# A message that was lost twice is sent a third time after half a minute.
COUNTED_WITHIN_S = 90.0
PAGE = 1000
_OPEN = {
    "open jobs": "SELECT count(*) FROM scrape_job WHERE state IN ('queued', 'running')",
    "accounts on their way": "SELECT count(*) FROM scrape_state WHERE job_id IS NOT NULL",
}
_CALM = "UPDATE scrape_state SET next_due_at = 'infinity' WHERE next_due_at < 'infinity'"
_STANDING = """
    SELECT DISTINCT ON (account_key) account_key, platform, handle, host, followers
    FROM fact_followers_snapshot JOIN dim_account USING (account_key) ORDER BY account_key, snapshot_date DESC
"""


class Soak(Struct, frozen=True):
    """All that a soak's report shows."""

    seed: int
    began_at: float
    minutes: float
    rate: float
    accounts: Mapping[str, int]
    offered: Offered
    blows: Sequence[Blow]
    samples: Sequence[Sample]
    progress: Sequence[Progress]
    verdicts: Sequence[Verdict]


def run(
    *,
    minutes: float,
    seed: int,
    rate: float = RATE,
    accounts: Mapping[str, int] = ACCOUNTS,
    say: Callable[[str], None] = print,
) -> Soak:
    """Run it, and return what was found. Its blows follow from the seed; when they fall, from the clock."""
    random = Random(seed)
    with site(accounts, seed, spoiled=SPOILED, **ENVIRON) as running, ExitStack() as stack:
        names = running.account_names()
        asked = random.sample(names, min(ASKED, len(names)))
        client = stack.enter_context(generator(running, seed, asked))
        say(f"{len(running.names)} processes run, {sum(accounts.values())} accounts are read every {INTERVAL_S} s.")
        client.offer(Order([(rate, 3)]))  # its connections, and the caches' first answers
        began_at = time.time()
        blows = Blows(running, random)
        with Watch(running, seed, asked) as watch:
            ends_at = began_at + minutes * 60
            client.begin(Order([(rate, minutes * 60)]))
            _strike(running, blows, ends_at - max(LEAST_CALM_S, CALM * minutes * 60), random, say)
            _sleep_until(running, ends_at)
            offered = client.result()
            say("The load has ended; what is under way comes to its end.")
            _read_all_again(running, since=max((blow.back_at for blow in blows.fallen), default=began_at))
            left = _calm(running)
        counted = _counted(running)
        told, kept = list(running.teller.told), ledger.kept(running.engine)
        standing = _standing(running)
        compared, wrong = _compare(running, standing)
        fallen = blows.fallen
        verdicts = (
            checks.sweeps(kept, sum(accounts.values()), least=max(2, int(minutes * 60 / INTERVAL_S / 4))),
            checks.struck(fallen, blows.kinds),
            checks.returns(fallen),
            checks.readings(told, kept, fallen, lease_s=LEASE_S),
            checks.snapshots(
                told, {name.partition("/")[2].partition("@")[0]: said for name, said in standing.items()}
            ),
            checks.counts(running.teller.asked, counted, blows.at_stake),
            checks.requests(offered.asked, offered.failures, fallen, began_at),
            checks.memory(watch.samples),
            checks.leftovers(left),
            checks.caches(watch.compared, watch.stale, wrong, fallen, compared, began_at),
        )
        return Soak(seed, began_at, minutes, rate, accounts, offered, fallen, watch.samples, watch.progress, verdicts)


def _strike(running: Site, blows: Blows, until: float, random: Random, say: Callable[[str], None]) -> None:
    """Let each kind of blow fall in turn, in a new order each time, until then."""
    _sleep_until(running, time.time() + WARM_S)
    each_s = (until - time.time()) / len(blows.kinds)
    between_s = min(MOST_BETWEEN_S, max(LEAST_BETWEEN_S, each_s * 0.8))
    while True:
        for name in random.sample(sorted(blows.kinds), len(blows.kinds)):
            if time.time() >= until:
                return
            next_at = time.time() + between_s * random.uniform(0.6, 1.4)
            blows.strike(name)
            last = blows.fallen[-1]
            with suppress(TimeoutError):  # a machine that is busy with other things
                running.wait(lambda: _answers_soon(running), "an answer of the API", within_s=SOON_WITHIN_S)
            say(f"{time.strftime('%H:%M:%S', time.localtime(last.at))} {last.name} ({last.struck})")
            _sleep_until(running, min(next_at, until))


def _answers_soon(running: Site) -> bool:
    with suppress(OSError):
        return bool(running.get("/api/totals", timeout_s=SOON_S))
    return False


def _sleep_until(running: Site, moment: float) -> None:
    """Wait; raise as soon as the processes end."""
    if (left_s := moment - time.time()) > 0:
        running.wait(lambda: time.time() >= moment, "the end of a wait", within_s=left_s + 60)


def _read_all_again(running: Site, since: float) -> None:
    """Return when every account has been read since the last blow."""
    unread = text(
        "SELECT count(*) FROM scrape_state WHERE subject = 'profile'"
        " AND (last_success_at IS NULL OR last_success_at < to_timestamp(:since))"
    )

    def is_read() -> bool:
        with reading(running.engine) as conn:
            return not conn.scalar(unread, {"since": since})

    with suppress(TimeoutError):  # what isn't read is told by the verdicts
        running.wait(is_read, "every account read again", within_s=QUIET_WITHIN_S)


def _calm(running: Site) -> dict[str, int]:
    """Let nothing be due any more; return what is still open when all should have come to its end."""

    def is_quiet() -> bool:
        with transaction(running.engine) as conn:
            conn.execute(text(_CALM))
        return not any(_left(running).values())

    with suppress(TimeoutError):
        running.wait(is_quiet, "an end of all jobs", within_s=QUIET_WITHIN_S)
    return _left(running)


def _left(running: Site) -> dict[str, int]:
    """Count what is open. What a killed process had taken from Redis comes back after ten minutes, and is nothing then."""
    with reading(running.engine) as conn:
        left = {what: int(conn.scalar(text(count)) or 0) for what, count in _OPEN.items()}
    with redis.Redis.from_url(running.servers.redis.url) as client:
        queues = [queue_name(platform, lane) for platform in running.teller.asked for lane in LANES]
        left["messages in queues"] = sum(client.llen(queue) for queue in queues)
    return left


def _counted(running: Site) -> dict[str, int]:
    """Return the recorder's calls by platform, when they are all there or no more come."""

    def found() -> Counter[str]:
        calls: Counter[str] = Counter()
        with reading(running.engine) as conn:
            for one in metrics.totals(conn):
                if one.name == CALLS.name:
                    calls[one.labels[0]] += int(one.value)
        return calls

    with suppress(TimeoutError):
        running.wait(lambda: found() == running.teller.asked, "all counts", within_s=COUNTED_WITHIN_S)
    return dict(found())


def _standing(running: Site) -> dict[str, int | None]:
    """Return the newest snapshot of each account, by its name."""
    with reading(running.engine) as conn:
        rows = conn.execute(text(_STANDING)).all()
    return {f"{row.platform}/{row.handle}" + (f"@{row.host}" if row.host else ""): row.followers for row in rows}


def _compare(running: Site, standing: Mapping[str, int | None]) -> tuple[int, list[str]]:
    """Ask every API process for every account, and say where its answer isn't what stands in the database."""
    api = Gunicorn(psutil.Process(running.pids()["api"]), running.port)  # type: ignore[arg-type]  # it only looks at the pid
    compared, wrong = 0, []
    for worker in api.workers:
        shown: dict[str, int | None] = {}
        for page in range(1, len(standing) // PAGE + 2):
            for item in msgspec.json.decode(api.get(f"/api/summary?per_page={PAGE}&page={page}", worker)[2])["items"]:
                shown[f"{item['platform']}/{item['handle']}"] = item["followers"]
        for name in sorted(standing):
            last = msgspec.json.decode(api.get(f"/api/history/{name}", worker)[2])["followers"][-1]
            for where, said in (("history", last), ("summary", shown.get(name))):
                compared += 1
                if said != standing[name]:
                    wrong.append(f"{name}: {where} says {said}, {standing[name]} was kept")
    return compared, wrong
