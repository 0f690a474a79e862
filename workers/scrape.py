"""One scrape job from start to finish: the room behind Celery's doors.

take the job ─ ask the platform ─ parse ─ decide ─ save in one transaction ─ then, and only then, tell the others.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TypeVar, cast

import structlog
from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct, structs

from db import claims, pauses, tags, writes
from db.engine import Connection, Engine, commit
from db.pauses import Pause
from pipeline import metrics, tracing
from pipeline.decide import outcome_of, outcomes
from pipeline.enqueue import new_job_id
from pipeline.errors import BatchRefused, NotAllowed, RateLimited, ScrapeError
from pipeline.messages import Purger, publish_jobs
from pipeline.metrics import Times
from pipeline.outbox import Outbox
from pipeline.plan import nexts_of
from pipeline.platforms import Client, Platform, Reader
from pipeline.records import Changes, Job, Missing, Outcome, Post, Profile
from pipeline.settings import Settings
from workers.deadline import gated
from workers.pauses import LONGEST_HOLD_S, Pauses, pause_of
from workers.reset import Allowance
from workers.turn import NoSlot, Turn

log = structlog.get_logger()

T = TypeVar("T")


class Deps(Struct, frozen=True):
    """What a worker process has: made once by its composition root, shared by its threads."""

    settings: Settings
    engine: Engine
    celery: Celery
    platform: Platform
    pauses: Pauses
    purger: Purger
    outbox: Outbox
    clients: Mapping[str, Callable[[Callable[[Allowance], None]], Client]]
    """By a credential's label, a maker of clients that tell the given function what rate headers say."""
    now: Callable[[], datetime]


class Answer(Struct, frozen=True):
    """What one call brought: good profiles, posts by account, and the accounts without numbers."""

    profiles: Sequence[Profile] = ()
    posts: Mapping[int, Sequence[Post]] = {}
    missing: Mapping[int, Missing] = {}
    cursor: str | None = None


def run_job(job_id: str, deps: Deps, turn: Turn) -> None:
    """Do one job: at most one call, everything it brought in one transaction, then the messages.

    Without a slot in its turn the job goes back to the database; a slot that it doesn't need goes back too. A message
    delivered twice finds nothing to do. An error of the platform is an outcome of its accounts; an error of ours is
    one too, and is raised.
    """
    try:
        _run(job_id, deps, turn)
    finally:
        turn.end()


def _run(job_id: str, deps: Deps, turn: Turn) -> None:
    began = time.monotonic()

    def begin(conn: Connection) -> tuple[Job | None, Sequence[Pause]]:
        now = deps.now()
        job = claims.take(conn, job_id=job_id, now=now, lease_until=_lease(deps, now))
        return job, pauses.standing(conn, now)

    job, standing = _commit(deps, begin)
    if job is None:
        _repeat_purge(job_id, deps)
        return
    with structlog.contextvars.bound_contextvars(job_id=job.job_id, kind=job.kind, lane=job.lane):
        paused = deps.pauses.until_free(standing)
        resting = {pause.credential for pause in standing if pause.platform == job.platform}
        if paused is not None and paused.result == "blocked":
            # Nothing hammers a refused credential; only what a person asks for tries it again.
            if job.lane == "user_requested" and turn.credential is not None:
                _call(job, deps, turn.credential, turn, began)
            else:
                outs = [Outcome(key, "blocked", paused.reason) for key in _keys(job)]
                _finish(job, deps, Answer(), outs, began, called=False)
        elif paused is not None:
            _give_back(job, deps, paused.until, began)
        elif turn.credential is None or turn.credential in resting:
            # At once where another credential is free, else when a slot is so near that the message waits in hand.
            _give_back(job, deps, deps.now() + timedelta(seconds=max(0.0, turn.wait_s - LONGEST_HOLD_S / 2)), began)
        else:
            _call(job, deps, turn.credential, turn, began)


def read(platform: Reader, job: Job, http: Client) -> Answer:
    """Ask the platform for the job's accounts. A reason names credentials as they are set, by `http.named`."""
    try:
        answer = _read(platform, job, http)
    except NotAllowed as exc:
        raise NotAllowed(exc.platform, http.named(exc.reason)) from exc
    except BatchRefused as exc:
        raise BatchRefused(exc.platform, http.named(exc.reason), bad=exc.bad) from exc
    missing = {key: structs.replace(one, reason=http.named(one.reason)) for key, one in answer.missing.items()}
    return structs.replace(answer, missing=missing)


def _read(platform: Reader, job: Job, http: Client) -> Answer:
    """Fetch and parse: `fetch` is the only I/O, `parse` is pure."""
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


def _call(job: Job, deps: Deps, credential: str, turn: Turn, began: float) -> None:
    """Make the job's one call when its turn comes, and act on how it ended."""
    heard: list[Allowance] = []
    asked = structs.replace(job, accounts=job.accounts[: job.size])
    try:
        with gated(turn):
            answer = read(cast(Reader, deps.platform), asked, deps.clients[credential](heard.append))
    except NoSlot as exc:
        _give_back(job, deps, deps.now() + timedelta(seconds=exc.wait_s), began)
        return
    except RateLimited as exc:
        deps.pauses.add(pause_of(exc, credential))
        _give_back(job, deps, _free_at(deps), began, called=True)
        return
    except BatchRefused as exc:
        _ask_in_parts(job, asked, exc, deps, began)
    except NotAllowed as exc:
        if _block(deps, credential, exc):
            _finish(job, deps, Answer(), [outcome_of(key, exc) for key in _keys(job)], began)
        else:
            # Another credential may do what this one may not.
            _give_back(job, deps, _free_at(deps), began, called=True)
        return
    except ScrapeError as exc:
        _finish(job, deps, Answer(), [outcome_of(key, exc) for key in _keys(asked)], began)
    except Exception as exc:
        reason = f"an error in Rollcall ({type(exc).__name__}): see the worker's log"
        _finish(job, deps, Answer(), [Outcome(key, "failed", reason) for key in _keys(job)], began)
        raise
    else:
        read_well: dict[int, Missing | None] = dict.fromkeys([profile.account_key for profile in answer.profiles])
        found = read_well | dict.fromkeys(answer.posts) | dict(answer.missing)
        _finish(job, deps, answer, outcomes(_keys(asked), found), began, credential=credential)
    for said in heard[-1:]:
        deps.pauses.heed(job.kind, credential, said, deps.now())


def _ask_in_parts(job: Job, asked: Job, refused: BatchRefused, deps: Deps, began: float) -> None:
    """Go on without the accounts for which the platform refused all; where it didn't say which, halve the batch.

    One bad account of fifty costs two calls when it is named, else about two for each halving.
    """
    if not refused.bad and len(asked.accounts) > 1:
        half = (len(asked.accounts) + 1) // 2
        _finish(job, deps, Answer(), [], began, again=structs.replace(job, size=half))
        return
    bad = refused.bad or _keys(asked)
    # The culprit is found: the others are asked for together again.
    others = structs.replace(job, size=None, accounts=tuple(a for a in job.accounts if a.account_key not in bad))
    outs = [Outcome(key, "gone", refused.reason) for key in bad]
    _finish(job, deps, Answer(), outs, began, again=others if others.accounts else None)


def _finish(
    job: Job,
    deps: Deps,
    answer: Answer,
    outs: Sequence[Outcome],
    began: float,
    *,
    credential: str | None = None,
    again: Job | None = None,
    called: bool = True,
) -> None:
    """Keep everything in one transaction; after its commit, and only then, tell the others.

    Accounts of the job without an outcome are asked for in a further call. `credential` has just done well.
    """
    now = deps.now()
    nexts = nexts_of(deps.settings, job, outs, now)
    done = {out.account_key for out in outs}
    rest = tuple(account for account in job.accounts if account.account_key not in done)
    again = again or (structs.replace(job, accounts=rest) if rest else None)

    def keep(conn: Connection) -> Changes | None:
        if credential is not None:
            pauses.unblock(conn, job.platform, credential)
        return writes.save(
            conn,
            job,
            nexts=nexts,
            profiles=answer.profiles,
            posts=answer.posts,
            follow=_next_page(job, answer, deps, conn),
            again=again,
            source=deps.settings.source,
            now=now,
            engagement_days=deps.settings.engagement_days,
            doubt=deps.settings.doubt,
            reads_posts="posts" in deps.platform.calls,
        )

    changes = _commit(deps, keep)
    if credential is not None:
        deps.pauses.unblock(credential)
    if changes is None:
        # Its lease ended and another worker has it, or the connection broke in a commit that counted after all.
        log.warning("job_lost", reason="it was finished or given out again before this was written")
        _repeat_purge(job.job_id, deps)
        _count(job, deps, "lost", (), time.monotonic() - began, called=called)
        return
    failed = sum(out.result != "ok" for out in outs)
    state = (
        "asked_in_parts" if again else "failed" if failed == len(outs) else "partly_failed" if failed else "succeeded"
    )
    _tell(job, deps, changes, state, outs, began, called=called)


def _give_back(job: Job, deps: Deps, until: datetime, began: float, *, called: bool = False) -> None:
    """Put the job back until its platform may be called again, at no cost of attempts."""
    _commit(deps, lambda conn: claims.release(conn, job, until=until))
    _tell(job, deps, Changes(frozenset({tags.JOBS})), "released", (), began, called=called)


def _free_at(deps: Deps) -> datetime:
    """Return when a credential may be used again, or now."""
    paused = _all_paused(deps)
    return paused.until if paused else deps.now()


def _all_paused(deps: Deps) -> Pause | None:
    """Return what stands in the way when every credential has a pause."""
    return deps.pauses.until_free(_commit(deps, lambda conn: pauses.standing(conn, deps.now())))


def _block(deps: Deps, credential: str, refusal: NotAllowed) -> bool:
    """Let a refused credential rest; say whether all are refused now."""
    # A platform of many servers: one that refuses says nothing of the others, so only its accounts wait.
    if "{host}" in deps.platform.base_url:
        return True
    until = deps.now() + timedelta(seconds=deps.settings.blocked_recheck_s)
    deps.pauses.add(Pause(deps.platform.name, credential, until, refusal.reason, "blocked"))
    paused = _all_paused(deps)
    return paused is not None and paused.result == "blocked"


def _tell(
    job: Job, deps: Deps, changes: Changes, outcome: str, outs: Sequence[Outcome], began: float, *, called: bool
) -> None:
    """Say what was committed: purge what shows it, count it, publish a further page, close with one line."""
    took_s = round(time.monotonic() - began, 4)
    deps.purger.purge(changes.tags)
    _count(job, deps, outcome, outs, took_s, called=called)
    try:
        publish_jobs(deps.celery, changes.follow)
    except (OperationalError, OSError) as exc:
        # The readings are kept; what is still to be asked for goes out when the broker is back.
        log.warning("broker_unreachable", error=type(exc).__name__)
        if unsent := [further.job_id for further in changes.follow]:
            _commit(deps, lambda conn: claims.end_leases(conn, unsent, now=deps.now()))
    tracing.tell({"rollcall.outcome": outcome, "rollcall.lane": job.lane, "rollcall.accounts": len(outs)})
    log.info(
        "job_finished",
        outcome=outcome,
        accounts=len(outs),
        failed=sum(out.result != "ok" for out in outs),
        snapshots=changes.snapshots,
        posts=changes.posts,
        took_s=took_s,
    )


def _count(job: Job, deps: Deps, outcome: str, outs: Sequence[Outcome], took_s: float, *, called: bool) -> None:
    """Send what the recorder counts of a job; `called` says whether its platform was asked."""
    where = (job.platform, job.lane)
    samples = [metrics.JOBS.sample(1, job.platform, job.kind, job.lane, outcome)]
    if called:
        times = Times()
        times.add(took_s)
        samples += [
            metrics.CALLS.sample(1, job.platform, job.kind, job.lane),
            metrics.CALL_TIME.timed(times, *where),
        ]
    results = Counter(out.result for out in outs)
    samples += [metrics.ACCOUNTS.sample(accounts, *where, result) for result, accounts in results.items()]
    if retried := sum(job.failures.get(out.account_key, 0) > 0 for out in outs):
        samples.append(metrics.RETRIES.sample(retried, *where))
    deps.outbox.send(samples, at=deps.now())


def _next_page(job: Job, answer: Answer, deps: Deps, conn: Connection) -> Job | None:
    """Return the job that reads on behind this page of posts.

    None at the end, at the most pages wanted, and where the page reaches posts that are known: those behind it are
    too. Asked before the page is written.
    """
    if answer.cursor is None or job.page >= deps.settings.posts_pages:
        return None
    (page,) = answer.posts.values()
    if writes.knows_post(conn, job.accounts[0].account_key, [post.post_id for post in page]):
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
    keys = _commit(deps, lambda conn: claims.finished_accounts(conn, job_id))
    if keys:
        deps.purger.purge(tags.of_job(deps.platform.name, keys))


def _commit(deps: Deps, work: Callable[[Connection], T]) -> T:
    """Do `work` in a transaction. A database that is away is waited for: without it there is nobody else to serve.

    So an answer that was paid for isn't asked for again; compare-and-set guards what is written late, or twice.
    """
    return commit(deps.engine, work, patience_s=deps.settings.job_lease_s)


def _keys(job: Job) -> list[int]:
    return [account.account_key for account in job.accounts]


def _lease(deps: Deps, now: datetime) -> datetime:
    return now + timedelta(seconds=deps.settings.job_lease_s)
