"""One scrape job from start to finish: the room behind Celery's doors.

take the job ─ ask the platform ─ parse ─ decide ─ save in one transaction ─ then say so (purge, metric).
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
from redis import RedisError

from db import claims, tags, writes
from db.engine import Engine, transaction
from pipeline.decide import decide, outcome_of, outcomes
from pipeline.enqueue import new_job_id
from pipeline.errors import NotAllowed, QuotaSpent, RateLimited, ScrapeError
from pipeline.messages import Metric, Purger, publish_metric, task_name
from pipeline.plan import policy_of
from pipeline.platforms import Platform, Reader
from pipeline.records import Changes, Job, Missing, Outcome, Post, Profile
from pipeline.settings import Settings
from workers.allowance import Pause, SharedAllowance
from workers.http import HttpClient
from workers.reset import Allowance

log = structlog.get_logger()

# Fewer calls than this left until the reset: the rest of the window is spread over them.
FEW_LEFT = 10
# The longest that a message is held in a worker; a longer wait is a pause of the platform.
LONGEST_HOLD_S = 30.0


class Deps(Struct, frozen=True):
    """What a worker process has: made once by its composition root, shared by its threads."""

    settings: Settings
    engine: Engine
    celery: Celery
    platform: Platform
    allowance: SharedAllowance
    purger: Purger
    client: Callable[[Callable[[Allowance], None]], HttpClient]
    """A client whose answers tell their rate headers to the given function."""
    now: Callable[[], datetime]


class Answer(Struct, frozen=True):
    """What one call brought: good profiles, posts by account, and the accounts without numbers."""

    profiles: Sequence[Profile] = ()
    posts: Mapping[int, Sequence[Post]] = {}
    missing: Mapping[int, Missing] = {}
    cursor: str | None = None


def run_job(job_id: str, deps: Deps) -> None:
    """Do one job: at most one call, everything it brought in one transaction, then the messages.

    A message delivered twice finds nothing to do. An error of the platform is an outcome; an error of ours is kept
    as the job's reason and raised.
    """
    began = time.monotonic()
    now = deps.now()
    with transaction(deps.engine) as conn:
        job = claims.take(conn, job_id=job_id, now=now, lease_until=_lease(deps, now))
        paused = claims.pauses(conn, now).get(deps.platform.name)
    if job is None:
        _repeat(job_id, deps)
        return
    with structlog.contextvars.bound_contextvars(job_id=job_id, platform=job.platform, kind=job.kind, lane=job.lane):
        if paused is not None and paused.result == "blocked" and job.lane != "user_requested":
            # Nothing hammers a refused credential; only a person's own request tries it.
            _finish(job, deps, Answer(), [Outcome(key, "blocked", paused.reason) for key in _keys(job)], began)
        elif pause := _limited(paused, deps):
            _give_back(job, deps, pause, began)
        else:
            _call(job, deps, began)


def _call(job: Job, deps: Deps, began: float) -> None:
    """Make the job's one call and act on how it ended."""
    heard: list[Allowance] = []
    try:
        answer = read(cast(Reader, deps.platform), job, deps.client(heard.append))
    except RateLimited as exc:
        result = "quota" if isinstance(exc, QuotaSpent) else "limited"
        _give_back(job, deps, Pause(exc.retry_at, exc.reason, result), began)
        return
    except ScrapeError as exc:
        if isinstance(exc, NotAllowed):
            _block(deps, exc)
        _finish(job, deps, Answer(), [outcome_of(key, exc) for key in _keys(job)], began)
    except Exception as exc:
        reason = f"error in Rollcall: {type(exc).__name__}, see the log"
        _finish(job, deps, Answer(), [Outcome(key, "failed", reason) for key in _keys(job)], began)
        raise
    else:
        found: dict[int, Missing | None] = {profile.account_key: None for profile in answer.profiles}
        found |= dict.fromkeys(answer.posts) | dict(answer.missing)
        _finish(job, deps, answer, outcomes(_keys(job), found), began)
    _heed(job, deps, heard)


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


def _finish(job: Job, deps: Deps, answer: Answer, outs: Sequence[Outcome], began: float) -> None:
    """Keep everything in one transaction; after its commit, and only then, tell the others."""
    now = deps.now()
    policy = policy_of(deps.settings, job.kind)
    nexts = [decide(out, job.failures.get(out.account_key, 0), now, policy, random.random()) for out in outs]
    with transaction(deps.engine) as conn:
        follow = _next_page(job, answer, deps)
        if follow is not None and writes.knows_post(conn, follow.accounts[0].account_key, _oldest(answer)):
            follow = None
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
            lease_until=_lease(deps, now),
        )
        if changes is not None and any(out.result == "ok" for out in outs):
            claims.unpause(conn, platform=job.platform, result="blocked")
    if changes is None:
        log.warning("job_lost", reason="given to another worker meanwhile; nothing was written")
        return
    failed = sum(out.result != "ok" for out in outs)
    _tell(deps, changes, _metric(job, now, _state(failed, len(outs)), failed, began))


def _next_page(job: Job, answer: Answer, deps: Deps) -> Job | None:
    """Return the job that reads on behind this page of posts, or None at the end or at the most pages wanted."""
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


def _give_back(job: Job, deps: Deps, pause: Pause, began: float) -> None:
    """Pause the platform as a whole and put the job back until then, at no cost of attempts."""
    now = deps.now()
    with transaction(deps.engine) as conn:
        claims.pause(conn, platform=job.platform, until=pause.until, reason=pause.reason, result=pause.result)
        claims.release(conn, job, now=now, until=pause.until)
    _tolerant(lambda: deps.allowance.pause(job.platform, pause))
    _tell(deps, Changes(frozenset({tags.JOBS})), _metric(job, now, "released", 0, began))


def _block(deps: Deps, error: NotAllowed) -> None:
    """Let a refused credential rest. A platform of many servers has none: there only the accounts wait."""
    if "{host}" in deps.platform.base_url:
        return
    until = deps.now() + timedelta(seconds=deps.settings.blocked_recheck_s)
    with transaction(deps.engine) as conn:
        claims.pause(conn, platform=deps.platform.name, until=until, reason=error.reason, result="blocked")


def _heed(job: Job, deps: Deps, heard: Sequence[Allowance]) -> None:
    """Slow down before the platform says 429: its headers outrank our table."""
    for said in heard[-1:]:
        if said.remaining is None or said.reset_at is None:
            continue
        now = deps.now()
        left_s = (said.reset_at - now).total_seconds()
        if left_s <= 0 or said.remaining >= FEW_LEFT:
            continue
        spread_s = left_s / max(said.remaining, 1)
        if said.remaining < 1 or spread_s > LONGEST_HOLD_S:
            pause = Pause(said.reset_at, f"the platform's allowance is used up until {said.reset_at:%H:%M} UTC", "limited")
            with transaction(deps.engine) as conn:
                claims.pause(conn, platform=job.platform, until=pause.until, reason=pause.reason, result=pause.result)
            _tolerant(lambda pause=pause: deps.allowance.pause(job.platform, pause))
        else:
            _tolerant(lambda: deps.allowance.slow(task_name(job.platform, job.kind), for_s=spread_s))
