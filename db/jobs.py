"""Jobs as people see and handle them: listed, followed, hurried, cancelled, and the accounts they left unread."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    Connection,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, JSONPATH, UUID

from db import keyset
from db.keyset import Order, Part, Window
from db.models import UTC, scrape_job, scrape_state
from db.overview import CANDIDATES, Candidate
from db.rows import Job, JobState, Kind, Lane, Result

# Ids a statement where very many jobs are followed, rows a fetch where very many accounts are returned.
_SLICE = 5_000

JobId = Annotated[str, Meta(pattern="^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")]
OPEN: tuple[JobState, ...] = ("queued", "running")


class Listed(Struct, frozen=True, kw_only=True):
    """One job. `accounts` is their number; `lease_until` is None once it has finished."""

    job_id: str
    platform: str
    kind: Kind
    lane: Lane
    state: JobState
    accounts: int
    attempt: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    lease_until: datetime | None
    requested_by: str | None
    reason: str | None

    @property
    def is_open(self) -> bool:
        return self.state in OPEN


class Shown(Struct, frozen=True):
    """One job as anyone may see it: not who asked for it. `accounts` is their number."""

    job_id: JobId
    platform: str
    kind: Kind
    queue: str
    state: JobState
    accounts: int
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Which(Struct, frozen=True, kw_only=True):
    """Which jobs are meant; None lets all pass."""

    job_ids: Sequence[str] | None = None
    state: JobState | None = None
    platform: str | None = None
    kind: Kind | None = None
    lane: Lane | None = None


class AccountResult(Struct, frozen=True):
    """What a job meant for one account."""

    account_key: int
    result: Result
    reason: str | None


class JobProgress(Struct, frozen=True):
    """How far a job is; `results` is empty until it has finished."""

    job_id: str
    state: JobState
    reason: str | None
    results: tuple[AccountResult, ...]

    @property
    def is_finished(self) -> bool:
        return self.state not in OPEN


_IS_OPEN = scrape_job.c.state.in_(OPEN)
_COMPUTED = {
    "accounts": func.cardinality(scrape_job.c.accounts),
    "lease_until": case((_IS_OPEN, scrape_job.c.lease_until)),
}
_LISTED = select(
    *(_COMPUTED[name].label(name) if name in _COMPUTED else scrape_job.c[name] for name in Listed.__struct_fields__)
).order_by(scrape_job.c.created_at.desc(), scrape_job.c.job_id)


def listed(conn: Connection, which: Which, *, limit: int | None = None) -> list[Listed]:
    """Return jobs, newest first."""
    query = _LISTED.where(*_conditions(which)).limit(limit)
    return [Listed(**row) for row in conn.execute(query).mappings()]


def _conditions(which: Which) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = []
    if which.job_ids is not None:
        ids = bindparam(None, list(which.job_ids), type_=ARRAY(UUID(as_uuid=False)))
        conditions.append(scrape_job.c.job_id == any_(ids))
    wanted = {"state": which.state, "platform": which.platform, "kind": which.kind, "lane": which.lane}
    return [*conditions, *(scrape_job.c[name] == value for name, value in wanted.items() if value is not None)]


SORTABLE = ("created_at",)
MOST_COUNTED = 10_000
_SHOWN: dict[str, ColumnElement[Any]] = {
    **{column.name: column for column in scrape_job.c},
    "accounts": _COMPUTED["accounts"],
    "queue": scrape_job.c.platform + "." + scrape_job.c.lane,  # as pipeline.lanes names it
}


def count(conn: Connection, which: Which) -> int | None:
    """Return how many jobs there are; None where they are more than MOST_COUNTED, which takes its time to find out."""
    some = select(scrape_job.c.job_id).where(*_conditions(which)).limit(MOST_COUNTED + 1).subquery()
    counted = int(conn.scalar(select(func.count()).select_from(some)) or 0)
    return counted if counted <= MOST_COUNTED else None


def part(conn: Connection, names: Sequence[str], which: Which, order: Order, window: Window) -> Part:
    """Return a part of the jobs, of each these fields of Shown, in this order."""
    selected = select(*(_SHOWN[name].label(name) for name in keyset.placed(names, order, "job_id")))
    of_jobs = selected.where(*_conditions(which))
    query = keyset.window_of(of_jobs, scrape_job.c[order.column], scrape_job.c.job_id, order, window)
    return keyset.part(conn.execute(query).all(), names, order, "job_id", window.limit)


_IDS = bindparam("job_ids", type_=ARRAY(UUID(as_uuid=False)))
_NAMED = scrape_job.c.job_id == any_(_IDS)
_PROGRESS = select(
    scrape_job.c.job_id, scrape_job.c.state, scrape_job.c.reason, case((~_IS_OPEN, scrape_job.c.outcomes))
).where(_NAMED)


def progress(conn: Connection, job_ids: Sequence[str]) -> Iterator[JobProgress]:
    """Yield how far each job is; one that isn't in the list any more is left out."""
    for start in range(0, len(job_ids), _SLICE):
        for job_id, state, reason, outcomes in conn.execute(_PROGRESS, {"job_ids": job_ids[start : start + _SLICE]}):
            yield JobProgress(job_id, state, reason, tuple(AccountResult(**outcome) for outcome in outcomes or ()))


def _queued(*conditions: ColumnElement[bool]) -> CTE:
    """Return queued jobs, locked in one order: people who handle the same jobs wait for each other."""
    return (
        select(scrape_job.c.job_id)
        .where(scrape_job.c.state == "queued", *conditions)
        .order_by(scrape_job.c.job_id)
        .with_for_update()
        .cte("waiting")
    )


_LEASE_END = bindparam("lease_end", type_=UTC)
_IS_PAUSED = scrape_job.c.platform == any_(bindparam("paused", type_=ARRAY(Text)))
_slow = _queued(
    _NAMED,
    or_(
        scrape_job.c.lane != "user_requested",
        # Later than any fresh lease: it was given back until then, so that the broker has no message of it.
        and_(scrape_job.c.lease_until > _LEASE_END, ~_IS_PAUSED),
    ),
)
_HURRY = (
    update(scrape_job)
    .where(scrape_job.c.job_id == _slow.c.job_id)
    .values(
        lane="user_requested",
        requested_by=func.coalesce(scrape_job.c.requested_by, bindparam("person", type_=Text)),
        lease_until=case((_IS_PAUSED, scrape_job.c.lease_until), else_=_LEASE_END),
    )
    .returning(scrape_job.c.job_id, scrape_job.c.platform, scrape_job.c.kind, scrape_job.c.lane)
)


def hurry(
    conn: Connection,
    job_ids: Collection[str],
    *,
    lease_until: datetime,
    paused: Collection[str],
    requested_by: str,
) -> list[Job]:
    """Move queued jobs that wait in another lane, or are held back until a time, to the user-requested lane.

    Returns those to publish once more, without their accounts. One of a platform that is `paused` changes its lane
    too, but goes out when its hold ends. The transaction must hold no lock on an account: whoever finishes a job
    locks the job before its accounts.
    """
    values = {
        "job_ids": list(job_ids),
        "lease_end": lease_until,
        "paused": list(paused),
        "person": requested_by,
    }
    moved = [Job(**row) for row in conn.execute(_HURRY, values).mappings()]
    return [job for job in moved if job.platform not in paused]


# Locked in the order in which claims.claim_requested locks.
_freed = (
    select(scrape_state.c.account_key, scrape_state.c.subject)
    .where(scrape_state.c.job_id == any_(_IDS))
    .order_by(scrape_state.c.account_key)
    .with_for_update()
    .cte("freed")
)
_SET_FREE = (
    update(scrape_state)
    .where(scrape_state.c.account_key == _freed.c.account_key, scrape_state.c.subject == _freed.c.subject)
    .values(job_id=None)
)


def cancel(conn: Connection, which: Which, *, now: datetime, reason: str) -> list[str]:
    """End queued jobs before they run; return their ids. Running and finished ones are left alone.

    Their accounts stand as they did before, and are due when they were due; they get no outcome, since none was tried.
    A job that is asked for in parts may have read some before: it has failed in part.
    """
    waiting = _queued(*_conditions(which))
    has_read = func.jsonb_path_exists(scrape_job.c.outcomes, cast('$[*] ? (@.result == "ok")', JSONPATH))
    ended = (
        update(scrape_job)
        .where(scrape_job.c.job_id == waiting.c.job_id)
        .values(state=case((has_read, "partly_failed"), else_="failed"), reason=reason, finished_at=now)
        .returning(scrape_job.c.job_id)
    )
    cancelled = list(conn.scalars(ended))
    conn.execute(_SET_FREE, {"job_ids": cancelled})
    return cancelled


def unread(conn: Connection, which: Which, *, result: Literal["failed"] | None = None) -> Iterator[Candidate]:
    """Yield the accounts that finished jobs didn't read, and that nothing has read since.

    With `result`, only those that the job said this of; else all without a good outcome, a cancelled job's too. An
    account whose profile and whose posts weren't read comes twice. Needs a transaction: the accounts are fetched as
    they are used.
    """
    account = func.unnest(scrape_job.c.accounts).column_valued("account")
    subject = case((scrape_job.c.kind == "posts", "posts"), else_="profile")
    tried = (
        select(
            account.label("account_key"),
            subject.label("subject"),
            func.max(scrape_job.c.finished_at).label("tried_at"),
        )
        .select_from(scrape_job)
        .where(
            scrape_job.c.state.in_(("partly_failed", "failed")),
            _said_of(account, result) if result else ~_said_of(account, "ok"),
            *_conditions(which),
        )
        .group_by(account, subject)
        .subquery()
    )
    query = (
        CANDIDATES.join(
            tried,
            and_(
                tried.c.account_key == scrape_state.c.account_key,
                tried.c.subject == scrape_state.c.subject,
            ),
        )
        .where(or_(scrape_state.c.last_success_at.is_(None), scrape_state.c.last_success_at < tried.c.tried_at))
        .order_by(scrape_state.c.account_key)
    )
    for row in conn.execute(query, execution_options={"yield_per": _SLICE}):
        yield Candidate(*row)


def _said_of(account: ColumnElement[Any], result: Result) -> ColumnElement[bool]:
    outcome = func.jsonb_build_object("account_key", account, "result", result)
    outcomes = func.coalesce(scrape_job.c.outcomes, func.jsonb_build_array())
    return outcomes.op("@>", is_comparison=True)(func.jsonb_build_array(outcome, type_=JSONB))
