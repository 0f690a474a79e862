"""Who reads what next: due accounts, leases, and the state of jobs, each by one compare-and-set.

An account on its way carries its job's id; the job carries the lease. `attempt` is the token of whoever runs the
job: only the newest attempt may finish it or give it back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import UUID, aggregate_order_by

from db.models import UTC, dim_account, scrape_job, scrape_state
from db.recordset import as_json, recordset
from db.rows import Account, Job, Kind, Subject

_Row = Row[*tuple[Any, ...]]
_Query = Select[*tuple[Any, ...]]

# Any number, as long as no other lock of ours has it.
_PLAN_LOCK = 0x726F6C6C03


class Requested(Struct, frozen=True):
    """What became of accounts asked for: new jobs, and by account_key the jobs that others were in already."""

    jobs: Sequence[Job]
    joined: Mapping[int, str]


class Expired(Struct, frozen=True):
    """Jobs whose lease has ended: to publish `again`, or `dead` and running, to be finished as failed."""

    again: Sequence[Job]
    dead: Sequence[Job]


# No parameter is named as a column is: SQLAlchemy would take it for a value to write.
_NOW = bindparam("now", type_=UTC)
_LEASE_END = bindparam("lease_end", type_=UTC)
_JOB = bindparam("job", type_=UUID(as_uuid=False))
_PLATFORM = bindparam("of_platform", type_=Text)
_KIND = bindparam("of_kind", type_=Text)
_SUBJECT = bindparam("of_subject", type_=Text)
_JOB_COLUMNS = [
    scrape_job.c[name] for name in ("job_id", "platform", "kind", "lane", "attempt", "cursor", "page", "size")
]
_ACCOUNT_COLUMNS = (
    dim_account.c.account_key,
    dim_account.c.handle,
    dim_account.c.url,
    dim_account.c.host,
    dim_account.c.external_id,
)
_FINISHED = ("succeeded", "partly_failed", "failed")


def _with_accounts(job: FromClause, state: FromClause = scrape_state) -> _Query:
    """Return a query of jobs with a row per account; a job whose accounts were deleted has one without any."""
    return (
        select(*job.c, *_ACCOUNT_COLUMNS, state.c.failures)
        .select_from(
            job.outerjoin(state, state.c.job_id == job.c.job_id).outerjoin(
                dim_account, dim_account.c.account_key == state.c.account_key
            )
        )
        .order_by(job.c.job_id, dim_account.c.account_key)
    )


def _claim_of(lane: Literal["core", "retry"]) -> _Query:
    """Build the statement of `claim_due` for one lane."""
    due = (
        scrape_state.c.platform == _PLATFORM,
        scrape_state.c.kind == _KIND,
        # As the index has it: `failures > 0` negated in any other way isn't matched with it.
        (scrape_state.c.failures > 0).is_(lane == "retry"),
        scrape_state.c.job_id.is_(None),
        scrape_state.c.next_due_at <= _NOW,
    )
    order = (scrape_state.c.is_core.desc(), scrape_state.c.next_due_at)
    head = (
        select(scrape_state.c.host)
        .where(*due)
        .order_by(*order)
        .limit(1)
        .with_for_update(skip_locked=True)
        .cte("head")
    )
    batch = (
        select(scrape_state.c.account_key, scrape_state.c.subject)
        .where(*due, scrape_state.c.host == select(head.c.host).scalar_subquery())
        .order_by(*order)
        .limit(bindparam("batch"))
        .with_for_update(skip_locked=True)
        .cte("batch")
    )
    claimed = (
        update(scrape_state)
        .where(scrape_state.c.account_key == batch.c.account_key, scrape_state.c.subject == batch.c.subject)
        .values(job_id=_JOB)
        .returning(scrape_state.c.account_key, scrape_state.c.failures, scrape_state.c.job_id)
        .cte("claimed")
    )
    values: dict[str, ColumnElement[Any]] = {
        "job_id": _JOB,
        "platform": _PLATFORM,
        "kind": _KIND,
        "lane": literal(lane, Text),
        "state": literal("queued", Text),
        "accounts": func.array_agg(aggregate_order_by(claimed.c.account_key, claimed.c.account_key)),
        "lease_until": _LEASE_END,
        "created_at": _NOW,
    }
    job = (
        insert(scrape_job)
        .from_select(list(values), select(*values.values()).select_from(claimed).having(func.count() > 0))
        .returning(*_JOB_COLUMNS)
        .cte("job")
    )
    return _with_accounts(job, claimed)


_CLAIM_DUE = {"core": _claim_of("core"), "retry": _claim_of("retry")}


def try_plan_lock(conn: Connection) -> bool:
    """Take the planners' lock until the end of the transaction; False when another holds it."""
    return bool(conn.scalar(select(func.pg_try_advisory_xact_lock(_PLAN_LOCK))))


def claim_due(
    conn: Connection,
    *,
    platform: str,
    kind: Kind,
    lane: Literal["core", "retry"],
    batch: int,
    now: datetime,
    lease_until: datetime,
    job_id: str,
) -> Job | None:
    """Put the most urgent due accounts of a lane into a new, queued job; None when nothing is due.

    Core accounts come first, then the longest due; `retry` holds those whose last attempt failed. A job's accounts
    are of one host, that of the most urgent. Accounts that another transaction is claiming are passed over.
    """
    values = {
        "of_platform": platform,
        "of_kind": kind,
        "batch": batch,
        "now": now,
        "lease_end": lease_until,
        "job": job_id,
    }
    return next(iter(_jobs(conn.execute(_CLAIM_DUE[lane], values))), None)


# Locked in one order, so that two people who ask for the same accounts wait for each other instead of dying of it.
_ASKED_FOR = (
    select(
        *_ACCOUNT_COLUMNS,
        scrape_state.c.platform,
        scrape_state.c.kind,
        scrape_state.c.failures,
        scrape_state.c.job_id,
    )
    .join_from(scrape_state, dim_account)
    .where(
        scrape_state.c.account_key == func.any(bindparam("account_keys", type_=ARRAY(BigInteger))),
        scrape_state.c.subject == _SUBJECT,
    )
    .order_by(scrape_state.c.account_key)
    .with_for_update(of=scrape_state)
)
_NEW_JOBS = recordset("jobs", job_id=UUID(as_uuid=False), platform=Text, kind=Text, account_keys=ARRAY(BigInteger))
_INSERT_REQUESTED = insert(scrape_job).from_select(
    ["job_id", "platform", "kind", "accounts", "lane", "state", "requested_by", "lease_until", "created_at"],
    select(
        _NEW_JOBS.c.job_id,
        _NEW_JOBS.c.platform,
        _NEW_JOBS.c.kind,
        _NEW_JOBS.c.account_keys,
        literal("user_requested", Text),
        literal("queued", Text),
        bindparam("person", type_=Text),
        _LEASE_END,
        _NOW,
    ),
)
_LEASE_REQUESTED = (
    update(scrape_state)
    .where(
        scrape_state.c.account_key == func.any(_NEW_JOBS.c.account_keys),
        scrape_state.c.subject == _SUBJECT,
    )
    .values(job_id=_NEW_JOBS.c.job_id)
)


def claim_requested(
    conn: Connection,
    *,
    account_keys: Sequence[int],
    subject: Subject = "profile",
    batches: Mapping[tuple[str, Kind], int],
    now: datetime,
    lease_until: datetime,
    new_job_id: Callable[[], str],
    requested_by: str,
) -> Requested:
    """Put accounts that a person asked for into new, queued jobs, whatever their due time.

    `batches` says how many accounts one call of a (platform, kind) carries; accounts of others are left out, since
    nothing reads them. Accounts that are on their way already are `joined` to their jobs.
    """
    asked = conn.execute(_ASKED_FOR, {"account_keys": list(account_keys), "of_subject": subject}).all()
    free = [row for row in asked if row.job_id is None and (row.platform, row.kind) in batches]
    jobs = [_requested(rows, new_job_id()) for rows in _batched(free, batches)]
    if jobs:
        rows = as_json(
            {
                "job_id": j.job_id,
                "platform": j.platform,
                "kind": j.kind,
                "account_keys": [a.account_key for a in j.accounts],
            }
            for j in jobs
        )
        values = {"now": now, "lease_end": lease_until, "person": requested_by}
        conn.execute(_INSERT_REQUESTED, {"jobs": rows, **values})
        conn.execute(_LEASE_REQUESTED, {"jobs": rows, "of_subject": subject})
    return Requested(jobs, {row.account_key: row.job_id for row in asked if row.job_id is not None})


def _batched(rows: Sequence[_Row], batches: Mapping[tuple[str, Kind], int]) -> Iterator[Sequence[_Row]]:
    """Yield groups of one platform, kind and host, none larger than its call carries."""

    def call(row: _Row) -> tuple[str, Kind, str]:
        return row.platform, row.kind, row.host

    for (platform, kind, _), group in groupby(sorted(rows, key=call), key=call):
        alike, size = list(group), batches[platform, kind]
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def _requested(rows: Sequence[_Row], job_id: str) -> Job:
    return Job(
        job_id=job_id,
        platform=rows[0].platform,
        kind=rows[0].kind,
        lane="user_requested",
        accounts=tuple(_account(row) for row in rows),
        failures={row.account_key: row.failures for row in rows},
    )


_TAKE = _with_accounts(
    update(scrape_job)
    .where(scrape_job.c.job_id == _JOB, scrape_job.c.state == "queued")
    .values(state="running", attempt=scrape_job.c.attempt + 1, started_at=_NOW, lease_until=_LEASE_END)
    .returning(*_JOB_COLUMNS)
    .cte("job")
)


def take(conn: Connection, *, job_id: str, now: datetime, lease_until: datetime) -> Job | None:
    """Begin a queued job: it is running, its attempt counted. None when there is nothing to do.

    There is nothing to do for a second delivery, for a finished or unknown job, and for one without accounts.
    """
    values = {"job": job_id, "now": now, "lease_end": lease_until}
    job = next(iter(_jobs(conn.execute(_TAKE, values))), None)
    return job if job and job.accounts else None


_FINISHED_ACCOUNTS = select(scrape_job.c.accounts).where(
    scrape_job.c.job_id == _JOB, scrape_job.c.state.in_(_FINISHED)
)


def finished_accounts(conn: Connection, job_id: str) -> tuple[int, ...]:
    """Return the account_keys of a finished job; none when it is open or unknown.

    A worker that died between its commit and its purge left the caches behind: who gets the message again purges.
    """
    return tuple(conn.scalar(_FINISHED_ACCOUNTS, {"job": job_id}) or ())


_RELEASE = (
    update(scrape_job)
    .where(
        scrape_job.c.job_id == _JOB,
        scrape_job.c.state == "running",
        scrape_job.c.attempt == bindparam("of_attempt"),
    )
    .values(
        state="queued", attempt=scrape_job.c.attempt - 1, started_at=None, lease_until=bindparam("until", type_=UTC)
    )
)


def release(conn: Connection, job: Job, *, until: datetime) -> bool:
    """Give a running job back without cost: the attempt isn't counted, and it goes out again after `until`.

    False when it was given to another meanwhile.
    """
    values = {"job": job.job_id, "of_attempt": job.attempt, "until": until}
    return conn.execute(_RELEASE, values).rowcount == 1


def _expire() -> _Query:
    """Build the statement of `expired`: it gives each job a new lease and counts one more attempt of the dead."""
    over = (
        select(scrape_job.c.job_id)
        .where(scrape_job.c.state.in_(("queued", "running")), scrape_job.c.lease_until <= _NOW)
        .order_by(scrape_job.c.lease_until)
        .limit(bindparam("limit"))
        .with_for_update(skip_locked=True)
        .cte("over")
    )
    dead = scrape_job.c.attempt >= bindparam("max_attempts")
    began = and_(scrape_job.c.attempt > 0, scrape_job.c.lane != "user_requested")
    given = (
        update(scrape_job)
        .where(scrape_job.c.job_id == over.c.job_id)
        .values(
            state=case((dead, "running"), else_="queued"),
            attempt=scrape_job.c.attempt + case((dead, 1), else_=0),
            lane=case((began, "retry"), else_=scrape_job.c.lane),
            lease_until=_LEASE_END,
        )
        .returning(*_JOB_COLUMNS, scrape_job.c.state)
        .cte("given")
    )
    return _with_accounts(given)


_EXPIRE = _expire()


def expired(
    conn: Connection, *, now: datetime, lease_until: datetime, max_attempts: int, limit: int = 500
) -> Expired:
    """Give out anew the open jobs whose lease has ended: their worker or their message is lost, or a pause is over.

    One that began before goes to the retry lane, unless a person waits for it. One that began `max_attempts` times
    is dead: it is running under a further attempt, so that the caller (and nobody else) can finish it.
    """
    values = {"now": now, "lease_end": lease_until, "max_attempts": max_attempts, "limit": limit}
    rows = conn.execute(_EXPIRE, values).all()
    return Expired(
        again=_jobs(row for row in rows if row.state == "queued"),
        dead=_jobs(row for row in rows if row.state == "running"),
    )


_BACKLOG = (
    select(scrape_job.c.platform, scrape_job.c.kind, func.count())
    .where(scrape_job.c.state == "queued")
    .group_by(scrape_job.c.platform, scrape_job.c.kind)
)


def backlog(conn: Connection) -> dict[tuple[str, Kind], int]:
    """Return the number of queued jobs by platform and kind; those without any are left out."""
    return {(platform, kind): count for platform, kind, count in conn.execute(_BACKLOG)}


def _unleased(*conditions: ColumnElement[bool]) -> _Query:
    """Return the profile rows of a platform that no job holds, locked; rows that someone works on are left alone."""
    return (
        select(scrape_state.c.account_key)
        .where(
            scrape_state.c.platform == _PLATFORM,
            scrape_state.c.subject == "profile",
            scrape_state.c.job_id.is_(None),
            *conditions,
        )
        .with_for_update(skip_locked=True)
    )


_EXPLAIN = (
    update(scrape_state)
    .where(
        scrape_state.c.subject == "profile",
        scrape_state.c.account_key.in_(
            _unleased(
                or_(
                    scrape_state.c.explained.is_(False),
                    scrape_state.c.result.is_distinct_from(bindparam("new_result", type_=Text)),
                    scrape_state.c.reason.is_distinct_from(bindparam("new_reason", type_=Text)),
                )
            )
        ),
    )
    .values(result=bindparam("new_result", type_=Text), reason=bindparam("new_reason", type_=Text), explained=true())
)


def explain(conn: Connection, *, platform: str, result: Literal["blocked"] | None, reason: str) -> int:
    """Say of every account of a platform that can't be read at all why not; return how many didn't say so yet.

    When they were read, and when they are due, stays as it is.
    """
    values = {"of_platform": platform, "new_result": result, "new_reason": reason}
    return conn.execute(_EXPLAIN, values).rowcount


_LAST_ONE_WAS_GOOD = scrape_state.c.last_success_at == scrape_state.c.last_attempt_at
_CLEAR_EXPLAINED = (
    update(scrape_state)
    .where(
        scrape_state.c.subject == "profile",
        scrape_state.c.account_key.in_(_unleased(scrape_state.c.explained)),
    )
    .values(
        explained=False,
        reason=None,
        result=case((_LAST_ONE_WAS_GOOD, "ok")),
        next_due_at=case(
            (
                and_(_LAST_ONE_WAS_GOOD.is_not(True), func.isfinite(scrape_state.c.next_due_at)),
                func.coalesce(scrape_state.c.last_attempt_at, scrape_state.c.next_due_at),
            ),
            else_=scrape_state.c.next_due_at,
        ),
    )
)


def clear_explained(conn: Connection, *, platform: str) -> int:
    """Take back what `explain` said of a platform that can be read now; return the number of accounts.

    An account whose last attempt was good is `ok` again, due when it was. What an earlier failed attempt meant is
    forgotten: such an account is due at once.
    """
    return conn.execute(_CLEAR_EXPLAINED, {"of_platform": platform}).rowcount


def prune(conn: Connection, *, before: datetime) -> int:
    """Delete the finished jobs created before then; return their number."""
    return conn.execute(
        delete(scrape_job).where(scrape_job.c.created_at < before, scrape_job.c.state.in_(_FINISHED))
    ).rowcount


def _jobs(rows: Iterable[_Row]) -> list[Job]:
    """Return the jobs of rows as `_with_accounts` orders them."""
    return [_job(list(group)) for _, group in groupby(rows, key=lambda row: row.job_id)]


def _job(rows: Sequence[_Row]) -> Job:
    first = rows[0]
    found = [row for row in rows if row.account_key is not None]
    return Job(
        job_id=first.job_id,
        platform=first.platform,
        kind=first.kind,
        lane=first.lane,
        attempt=first.attempt,
        cursor=first.cursor,
        page=first.page,
        size=first.size,
        accounts=tuple(_account(row) for row in found),
        failures={row.account_key: row.failures for row in found},
    )


def _account(row: _Row) -> Account:
    return Account(row.account_key, row.platform, row.handle, row.url, row.host, row.external_id)
