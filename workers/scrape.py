"""One scrape job from start to finish: the room behind Celery's doors.

take the job ─ ask the platform ─ parse ─ decide ─ save in one transaction ─ then, and only then, tell the others.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import cast

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct

from db import claims, tags, writes
from db.claims import Pause
from db.engine import Engine, transaction
from db.metrics import Metric
from pipeline.decide import decide, outcome_of, outcomes
from pipeline.enqueue import new_job_id
from pipeline.errors import NotAllowed, RateLimited, ScrapeError
from pipeline.messages import Purger, publish_jobs, publish_metric
from pipeline.plan import policy_of
from pipeline.platforms import Platform, Reader
from pipeline.records import Changes, Job, Missing, Outcome, Post, Profile
from pipeline.settings import Settings
from workers.http import HttpClient
from workers.pauses import Pauses, pause_of
from workers.reset import Allowance

log = structlog.get_logger()


class Deps(Struct, frozen=True):
    """What a worker process has: made once by its composition root, shared by its threads."""

    settings: Settings
    engine: Engine
    celery: Celery
    platform: Platform
    pauses: Pauses
    purger: Purger
    client: Callable[[Callable[[Allowance], None]], HttpClient]
    """Makes a client that tells the given function what the headers of each answer say of the limit."""
    now: Callable[[], datetime]


class Answer(Struct, frozen=True):
    """What one call brought: good profiles, posts by account, and the accounts without numbers."""

    profiles: Sequence[Profile] = ()
    posts: Mapping[int, Sequence[Post]] = {}
    missing: Mapping[int, Missing] = {}
    cursor: str | None = None


def run_job(job_id: str, deps: Deps) -> None:
    """Do one job: at most one call, everything it brought in one transaction, then the messages.

    A message delivered twice finds nothing to do. An error of the platform is an outcome of its accounts; an error
    of ours is one too, and is raised.
    """
    began = time.monotonic()
    now = deps.now()
    with transaction(deps.engine) as conn:
        job = claims.take(conn, job_id=job_id, now=now, lease_until=_lease(deps, now))
        paused = claims.pauses(conn, now).get(deps.platform.name)
    if job is None:
        _repeat_purge(job_id, deps)
        return
    with structlog.contextvars.bound_contextvars(job_id=job.job_id, kind=job.kind, lane=job.lane):
        if paused is not None and paused.result == "blocked":
            # Nothing hammers a refused credential; only what a person asks for tries it again.
            if job.lane == "user_requested":
                _call(job, deps, began)
            else:
                _finish(job, deps, Answer(), [Outcome(key, "blocked", paused.reason) for key in _keys(job)], began)
        elif (pause := paused or deps.pauses.standing()) is not None:
            _give_back(job, deps, pause, began)
        else:
            _call(job, deps, began)


def read(platform: Reader, job: Job, http: HttpClient) -> Answer:
    """Ask the platform for the job's accounts: `fetch` is the only I/O, `parse` is pure."""
    if job.kind == "posts":
        account = job.accounts[0]
        found = platform.parse_posts(platform.fetch_posts(account, http, job.cursor), account)
        if isinstance(found, Missing):
            return Answer(missing={account.account_key: found})
        return Answer(posts={account.account_key: found.posts}, cursor=found.cursor)
    if job.kind == "resolve":
        said = list(platform.parse_resolve(platform.fetch_resolve(job.accounts, http), job.accounts))
    else:
        said = list(platform.parse_profiles(platform.fetch_profiles(job.accounts, http), job.accounts))
    return Answer(
        profiles=[one for one in said if isinstance(one, Profile)],
        missing={one.account_key: one for one in said if isinstance(one, Missing)},
    )


def _call(job: Job, deps: Deps, began: float) -> None:
    """Make the job's one call and act on how it ended."""
    heard: list[Allowance] = []
    try:
        answer = read(cast(Reader, deps.platform), job, deps.client(heard.append))
    except RateLimited as exc:
        _give_back(job, deps, pause_of(exc), began)
        return
    except ScrapeError as exc:
        if isinstance(exc, NotAllowed):
            deps.pauses.block(exc, deps.now() + timedelta(seconds=deps.settings.blocked_recheck_s))
        _finish(job, deps, Answer(), [outcome_of(key, exc) for key in _keys(job)], began)
    except Exception as exc:
        reason = f"an error in Rollcall ({type(exc).__name__}): see the worker's log"
        _finish(job, deps, Answer(), [Outcome(key, "failed", reason) for key in _keys(job)], began)
        raise
    else:
        read_well: dict[int, Missing | None] = dict.fromkeys([profile.account_key for profile in answer.profiles])
        found = read_well | dict.fromkeys(answer.posts) | dict(answer.missing)
        _finish(job, deps, answer, outcomes(_keys(job), found), began)
    for said in heard[-1:]:
        deps.pauses.heed(job.kind, said, deps.now())


def _finish(job: Job, deps: Deps, answer: Answer, outs: Sequence[Outcome], began: float) -> None:
    """Keep everything in one transaction; after its commit, and only then, tell the others."""
    now = deps.now()
    policy = policy_of(deps.settings, job.kind)
    nexts = [decide(out, job.failures.get(out.account_key, 0), now, policy, random.random()) for out in outs]
    failed = sum(out.result != "ok" for out in outs)
    follow = _next_page(job, answer, deps)
    with transaction(deps.engine) as conn:
        changes = writes.save(
            conn,
            job,
            nexts=nexts,
            profiles=answer.profiles,
            posts=answer.posts,
            follow=follow,
            source=deps.settings.source,
            now=now,
            engagement_days=deps.settings.engagement_days,
        )
        if failed < len(outs):
            claims.unblock(conn, job.platform)  # its credential works
    if changes is None:
        log.warning("job_lost", reason="its lease ended and it was given to another worker; nothing was written")
        return
    state = "failed" if failed == len(outs) else "partly_failed" if failed else "succeeded"
    _tell(job, deps, changes, state, failed, began)


def _give_back(job: Job, deps: Deps, pause: Pause, began: float) -> None:
    """Put the job back until its platform may be called again."""
    deps.pauses.give_back(job, pause)
    _tell(job, deps, Changes(frozenset({tags.JOBS})), "released", 0, began)


def _tell(job: Job, deps: Deps, changes: Changes, outcome: str, failed: int, began: float) -> None:
    """Say what was committed: purge what shows it, send the metric, publish a further page, close with one line."""
    took_s = round(time.monotonic() - began, 4)
    deps.purger.purge(changes.tags)
    metric = Metric(
        at=deps.now(),
        platform=job.platform,
        kind=job.kind,
        lane=job.lane,
        outcome=outcome,
        accounts=len(job.accounts),
        failed_accounts=failed,
        duration_s=took_s,
    )
    try:
        publish_metric(deps.celery, metric)
        publish_jobs(deps.celery, changes.follow)
    except (OperationalError, OSError) as exc:
        # The readings are kept. A further page goes out when its lease ends, a metric is lost.
        log.warning("broker_unreachable", error=type(exc).__name__)
    log.info(
        "job_finished",
        outcome=outcome,
        accounts=len(job.accounts),
        failed=failed,
        snapshots=changes.snapshots,
        posts=changes.posts,
        took_s=took_s,
    )


def _next_page(job: Job, answer: Answer, deps: Deps) -> Job | None:
    """Return the job that would read on behind this page of posts, or None at the end or at the most pages wanted."""
    if answer.cursor is None or job.page >= deps.settings.posts_pages:
        return None
    return Job(
        job_id=new_job_id(),
        platform=job.platform,
        kind=job.kind,
        lane=job.lane,
        cursor=answer.cursor,
        page=job.page + 1,
        accounts=job.accounts,
    )


def _repeat_purge(job_id: str, deps: Deps) -> None:
    """Purge again for a job that is finished already: its worker may have died between commit and purge."""
    with transaction(deps.engine) as conn:
        keys = claims.finished_accounts(conn, job_id)
    if keys:
        deps.purger.purge(tags.of_job(deps.platform.name, keys))


def _keys(job: Job) -> list[int]:
    return [account.account_key for account in job.accounts]


def _lease(deps: Deps, now: datetime) -> datetime:
    return now + timedelta(seconds=deps.settings.job_lease_s)
