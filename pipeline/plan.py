"""The tick: give out what is due, no more than the platforms' allowances carry for the next seconds.

Claiming late keeps the order right (core accounts first, then the longest due), the queues short and the broker's
memory flat at any number of accounts. The database comes first: jobs are committed, then published.
"""

import math
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import cycle

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct
from redis import RedisError

from db import claims, explained, gaps, pauses, tags, writes
from db.claims import Call, DueLane
from db.engine import Connection, Engine, transaction
from pipeline import platforms
from pipeline.accounts import NO_READER
from pipeline.decide import Policy, decide, next_reading, place_of
from pipeline.enqueue import new_job_id, readable
from pipeline.lanes import TURNS
from pipeline.messages import Purger, publish_jobs, task_name
from pipeline.platforms import Platform
from pipeline.records import Account, Changes, Job, Kind, Next, Outcome
from pipeline.settings import Settings
from pipeline.slots import Slots

log = structlog.get_logger()

EXPLAIN_EVERY_S = 60
# A tick claims so many at most and commits them; the next one goes on at once.
JOBS_A_TICK = 10
# Where somebody has lifted a limit, its queue is kept as if it were this.
_LEAST_SPACE_S = 0.001


class _Openings(Struct, frozen=True):
    """What the shared allowance says: spaces that differ from the settings', and how soon each next slot opens (s)."""

    spaces: Mapping[str, float] = {}
    opens_in_s: Mapping[tuple[str, str], float] = {}


class Planner:
    """Plans for every platform. Any number may run: an advisory lock lets one through at a time.

    `is_behind` says after a tick that more could have been claimed than one tick claims.
    """

    def __init__(self, settings: Settings, engine: Engine, celery: Celery, purger: Purger, slots: Slots) -> None:
        self._settings = settings
        self._engine = engine
        self._celery = celery
        self._purger = purger
        self._slots = slots
        self._turns: defaultdict[Call, Iterator[DueLane]] = defaultdict(lambda: cycle(TURNS))
        self._explained_at: datetime | None = None
        self.is_behind = False

    def tick(self, now: datetime) -> int:
        """Plan once and return how many jobs were published. Raises what the database or the broker raises."""
        self.is_behind = False
        openings = self._openings()
        with transaction(self._engine) as conn:
            if not claims.try_plan_lock(conn):
                return 0
            wanted = self._wanted(conn, openings, now)
            jobs, buried = self._revive(conn, wanted, now)
            claimed, behind = self._claim(conn, wanted - Counter(map(_call, jobs)), now)
            jobs += claimed
        self._publish(jobs, now)
        self.is_behind = behind
        for changes in buried:
            self._purger.purge(changes.tags)
        return len(jobs)

    def _publish(self, jobs: Sequence[Job], now: datetime) -> None:
        """Publish what is committed. What the broker doesn't take goes out with the first tick after it is back."""
        try:
            publish_jobs(self._celery, jobs)
        except (OperationalError, OSError):
            with transaction(self._engine) as conn:
                claims.end_leases(conn, [job.job_id for job in jobs], now=now)
            raise

    def explain(self, now: datetime) -> None:
        """Say of accounts that nothing can read why: no reader yet, or a credential that isn't set. Once a minute."""
        # By its distance: a clock that is set back must not keep this from being said.
        if self._explained_at and abs(now - self._explained_at) < timedelta(seconds=EXPLAIN_EVERY_S):
            return
        touched = set()
        for platform in platforms.load().values():
            with transaction(self._engine) as conn:  # one each: the accounts of a platform may be very many
                if self._explain(conn, platform):
                    gaps.record_platform(conn, platform.name, now.date())
                    touched.add(tags.standing(platform.name))
        self._explained_at = now
        if touched:
            self._purger.purge({tags.SUMMARY, tags.ACCOUNTS, *touched})

    def _explain(self, conn: Connection, platform: Platform) -> int:
        if not platform.calls:
            return explained.explain(conn, platform=platform.name, result=None, reason=NO_READER)
        if lacking := self._settings.lacks(platform):
            reason = f"needs {' and '.join(lacking)}"
            return explained.explain(conn, platform=platform.name, result="blocked", reason=reason)
        return explained.clear(conn, platform=platform.name)

    def _openings(self) -> _Openings:
        """Ask when the next slots open. Without an answer all count as open: the settings' limits bound what is claimed."""
        pairs = [
            (task_name(platform.name, kind), one.label)
            for platform in readable(self._settings)
            for kind in platform.calls
            for one in self._settings.credentials(platform)
        ]
        try:
            return _Openings(self._slots.spaces(), self._slots.opens_in_s(pairs))
        except RedisError as exc:
            log.warning("slots_unknown", error=type(exc).__name__)
            return _Openings()

    def _wanted(self, conn: Connection, openings: _Openings, now: datetime) -> Counter[Call]:
        """Return how many more jobs of each call its slots of the next seconds carry."""
        paused = {(pause.platform, pause.credential) for pause in pauses.standing(conn, now)}
        slots = Counter(
            {
                (platform.name, kind): sum(
                    self._opening(platform, kind, one.label, openings)
                    for one in self._settings.credentials(platform)
                    if (platform.name, one.label) not in paused
                )
                for platform in readable(self._settings)
                for kind in platform.calls
            }
        )
        return slots - Counter(claims.backlog(conn, leased_at=now))

    def _opening(self, platform: Platform, kind: Kind, credential: str, openings: _Openings) -> int:
        """Return how many slots of a credential open within the next seconds."""
        task = task_name(platform.name, kind)
        by_settings_s = self._settings.rate(platform, kind).interval_s * platform.calls[kind].requests
        space_s = max(_LEAST_SPACE_S, openings.spaces.get(task, by_settings_s))
        left_s = self._settings.plan_ahead_s - openings.opens_in_s.get((task, credential), 0.0)
        return max(0, math.ceil(left_s / space_s))

    def _revive(self, conn: Connection, wanted: Mapping[Call, int], now: datetime) -> tuple[list[Job], list[Changes]]:
        """Give out again the jobs whose lease ended (a worker killed, a broker flushed, a pause over).

        One that was begun too often without an end is buried: its accounts have failed, with that as the reason.
        """
        expired = claims.expired(
            conn,
            wanted=wanted,
            now=now,
            lease_until=self._lease(now),
            max_attempts=self._settings.job_max_attempts,
        )
        buried = [changes for job in expired.dead if (changes := self._bury(conn, job, now))]
        return list(expired.again), buried

    def _bury(self, conn: Connection, job: Job, now: datetime) -> Changes | None:
        reason = f"given up: begun {job.attempt - 1} times, and no worker lived to finish it"
        log.error("job_given_up", job_id=job.job_id, platform=job.platform, kind=job.kind, accounts=len(job.accounts))
        outs = [Outcome(account.account_key, "failed", reason) for account in job.accounts]
        nexts = nexts_of(self._settings, job, outs, now)
        return writes.save(conn, job, nexts=nexts, source=self._settings.source, now=now)

    def _claim(self, conn: Connection, wanted: Mapping[Call, int], now: datetime) -> tuple[list[Job], bool]:
        """Claim what is wanted and due; say whether it is more than one tick claims."""
        lanes = claims.due(conn, wanted, now=now)
        jobs: list[Job] = []
        for call in random.sample(list(lanes), len(lanes)):  # so that none is always the last
            jobs += self._claim_call(conn, call, lanes[call], min(wanted[call], JOBS_A_TICK - len(jobs)), now)
            if len(jobs) == JOBS_A_TICK:
                return jobs, True
        return jobs, False

    def _claim_call(
        self, conn: Connection, call: Call, lanes: Sequence[DueLane], count: int, now: datetime
    ) -> list[Job]:
        """Claim so many jobs of a call: of each lane as its turns say, and what one of them lacks of the other."""
        turns = Counter(next(self._turns[call]) for _ in range(count))
        retries = self._claim_lane(conn, call, "retry", turns["retry"], now) if "retry" in lanes else []
        jobs = retries + (self._claim_lane(conn, call, "core", count - len(retries), now) if "core" in lanes else [])
        if "retry" in lanes and len(retries) == turns["retry"]:
            jobs += self._claim_lane(conn, call, "retry", count - len(jobs), now)
        return jobs

    def _claim_lane(self, conn: Connection, call: Call, lane: DueLane, count: int, now: datetime) -> list[Job]:
        platform, kind = platforms.load()[call[0]], call[1]
        one_host = "{host}" in platform.base_url
        jobs: list[Job] = []
        while len(jobs) < count:
            claimed = claims.claim_due(
                conn,
                platform=platform.name,
                kind=kind,
                lane=lane,
                batch=platform.calls[kind].batch,
                one_host=one_host,
                now=now,
                lease_until=self._lease(now),
                # Where a job is of one host, the next most urgent may be of another.
                job_ids=[new_job_id() for _ in range(1 if one_host else count - len(jobs))],
            )
            if not claimed:
                break
            jobs += claimed
        return jobs

    def _lease(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.job_lease_s)


def nexts_of(settings: Settings, job: Job, outs: Sequence[Outcome], now: datetime) -> list[Next]:
    """Return how these accounts of a job stand after it, and when each is due again."""
    policy = Policy(
        backoff_base_s=settings.backoff_base_s,
        backoff_cap_s=settings.backoff_cap_s,
        gone_recheck_s=settings.gone_recheck_s,
        blocked_recheck_s=settings.blocked_recheck_s,
    )
    accounts = {account.account_key: account for account in job.accounts}
    return [
        decide(
            out,
            job.failures.get(out.account_key, 0),
            now,
            policy,
            random.random(),
            again_at=_again_at(settings, job, accounts[out.account_key], now) if out.result == "ok" else None,
        )
        for out in outs
    ]


def _again_at(settings: Settings, job: Job, account: Account, now: datetime) -> datetime:
    """Return when an account, or its posts, is read again after a good reading."""
    platform = platforms.load()[job.platform]
    interval_s = settings.interval_s(platform, job.kind)
    if job.kind == "posts":
        place = place_of(account, "posts", platform.calls["posts"].batch)
    else:
        # Whatever call read it now, it is known by its id from here on.
        place = place_of(account, "profile", platform.calls["profiles"].batch)
        interval_s = account.read_interval_s or interval_s
    return next_reading(now, interval_s, place=place, read_at_s=settings.read_at_s)


def _call(job: Job) -> Call:
    return job.platform, job.kind
