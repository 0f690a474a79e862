"""The tick: give out what is due, no more than the platforms' allowances carry for the next seconds.

Claiming late keeps the order right (core accounts first, then the longest due), the queues short and the broker's
memory flat at any number of accounts. The database comes first: jobs are committed, then published.
"""

import math
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import cycle
from typing import Literal

import structlog
from celery import Celery

from db import claims, pauses, writes
from db.engine import Connection, Engine, transaction
from pipeline import platforms
from pipeline.accounts import NO_READER
from pipeline.decide import Policy, decide
from pipeline.enqueue import new_job_id, readable
from pipeline.messages import Purger, publish_jobs
from pipeline.platforms import Platform
from pipeline.records import Changes, Job, Kind, Outcome
from pipeline.settings import Settings

DueLane = Literal["core", "retry"]

log = structlog.get_logger()

# Retry goes ahead of core for every fifth job, as in the workers' queues.
_LANES: tuple[tuple[DueLane, DueLane], ...] = (("core", "retry"),) * 4 + (("retry", "core"),)
EXPLAIN_EVERY_S = 60


class Planner:
    """Plans for every platform. Any number may run: an advisory lock lets one through at a time."""

    def __init__(self, settings: Settings, engine: Engine, celery: Celery, purger: Purger) -> None:
        self._settings = settings
        self._engine = engine
        self._celery = celery
        self._purger = purger
        self._lanes: Iterator[tuple[DueLane, DueLane]] = cycle(_LANES)
        self._explained_at: datetime | None = None

    def tick(self, now: datetime) -> int:
        """Plan once and return how many jobs were published. Raises what the database or the broker raises."""
        with transaction(self._engine) as conn:
            if not claims.try_plan_lock(conn):
                return 0
            jobs, buried = self._revive(conn, now)
            explained = self._explain(conn, now)
            jobs += self._claim(conn, now)
        publish_jobs(self._celery, jobs)
        for changes in (*buried, *explained):
            self._purger.purge(changes.tags)
        return len(jobs)

    def _revive(self, conn: Connection, now: datetime) -> tuple[list[Job], list[Changes]]:
        """Give out again the jobs whose lease ended (a worker killed, a broker flushed, a pause over).

        One that was begun too often without an end is buried: its accounts have failed, with that as the reason.
        """
        expired = claims.expired(
            conn, now=now, lease_until=self._lease(now), max_attempts=self._settings.job_max_attempts
        )
        buried = [changes for job in expired.dead if (changes := self._bury(conn, job, now))]
        return list(expired.again), buried

    def _bury(self, conn: Connection, job: Job, now: datetime) -> Changes | None:
        reason = f"given up: begun {job.attempt - 1} times, and no worker lived to finish it"
        log.error("job_given_up", job_id=job.job_id, platform=job.platform, kind=job.kind, accounts=len(job.accounts))
        policy = policy_of(self._settings, job.kind)
        nexts = [
            decide(
                Outcome(account.account_key, "failed", reason),
                job.failures.get(account.account_key, 0),
                now,
                policy,
                random.random(),
            )
            for account in job.accounts
        ]
        return writes.save(conn, job, nexts=nexts, source=self._settings.source, now=now)

    def _explain(self, conn: Connection, now: datetime) -> list[Changes]:
        """Say of accounts that nothing can read why: no reader yet, or a credential that isn't set."""
        if self._explained_at and now - self._explained_at < timedelta(seconds=EXPLAIN_EVERY_S):
            return []
        self._explained_at = now
        touched = 0
        for platform in platforms.load().values():
            if not platform.calls:
                touched += claims.explain(conn, platform=platform.name, result=None, reason=NO_READER)
            elif lacking := self._settings.lacks(platform):
                reason = f"needs {' and '.join(lacking)}"
                touched += claims.explain(conn, platform=platform.name, result="blocked", reason=reason)
            else:
                touched += claims.clear_explained(conn, platform=platform.name)
        return [Changes(frozenset({"summary", "accounts"}))] if touched else []

    def _claim(self, conn: Connection, now: datetime) -> list[Job]:
        paused = {(pause.platform, pause.credential) for pause in pauses.standing(conn, now)}
        backlog = claims.backlog(conn)
        jobs: list[Job] = []
        for platform in readable(self._settings):
            labels = [one.label for one in self._settings.credentials(platform)]
            free = sum((platform.name, label) not in paused for label in labels)
            for kind in platform.calls:
                wanted = free * self._carried(platform, kind) - backlog.get((platform.name, kind), 0)
                jobs += self._claim_kind(conn, platform, kind, wanted, now)
        return jobs

    def _carried(self, platform: Platform, kind: Kind) -> int:
        """Return how many calls the allowance of one credential carries in the next seconds."""
        space_s = self._settings.rate(platform, kind).interval_s * platform.calls[kind].requests
        return math.ceil(self._settings.plan_ahead_s / space_s)

    def _claim_kind(
        self, conn: Connection, platform: Platform, kind: Kind, wanted: int, now: datetime
    ) -> Iterator[Job]:
        """Claim so many calls, or as many as are due."""
        call = platform.calls[kind]
        for _ in range(wanted):
            job = self._claim_one(conn, platform, kind, call.batch, now)
            if job is None:
                return
            yield job

    def _claim_one(self, conn: Connection, platform: Platform, kind: Kind, batch: int, now: datetime) -> Job | None:
        for lane in next(self._lanes):
            job = claims.claim_due(
                conn,
                platform=platform.name,
                kind=kind,
                lane=lane,
                batch=batch,
                now=now,
                lease_until=self._lease(now),
                job_id=new_job_id(),
            )
            if job is not None:
                return job
        return None

    def _lease(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._settings.job_lease_s)


def policy_of(settings: Settings, kind: Kind) -> Policy:
    """Return the waits that apply after a call of this kind."""
    return Policy(
        interval_s=settings.posts_interval_s if kind == "posts" else settings.read_interval_s,
        backoff_base_s=settings.backoff_base_s,
        backoff_cap_s=settings.backoff_cap_s,
        gone_recheck_s=settings.gone_recheck_s,
        blocked_recheck_s=settings.blocked_recheck_s,
    )
