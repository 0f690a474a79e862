"""Who reads what next: due accounts, leases, and the state of jobs, each by one compare-and-set.

An account on its way carries its job's id; the job carries the lease. `attempt` is the token of whoever runs the
job: only the newest attempt may finish it or give it back.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, Literal, get_args

from msgspec import Struct
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    FromClause,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal,
    literal_column,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import UUID, aggregate_order_by

from db.models import UTC, dim_account, scrape_job, scrape_state
from db.recordset import as_json, recordset
from db.rows import Account, Job, Kind, Subject

_Row = Row[*tuple[Any, ...]]
_Query = Select[*tuple[Any, ...]]
# A platform and a kind of call: what has a limit and a task of its own.
Call = tuple[str, Kind]
# The lanes of what is due by itself; the third is that of people.
DueLane = Literal["core", "retry"]
_LANES: tuple[DueLane, ...] = get_args(DueLane)

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
_JOBS = bindparam("jobs", type_=ARRAY(UUID(as_uuid=False)))
_BATCH = bindparam("batch", type_=Integer)
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
    dim_account.c.seat,
    dim_account.c.read_interval_s,
)
_FINISHED = ("succeeded", "partly_failed", "failed")


def _with_accounts(job: FromClause, state: FromClause = scrape_state) -> _Query:
    """Return a query of jobs with a row per account; a job whose accounts were deleted has one without any."""
    # As text: the driver would make an object of the id in each row, and SQLAlchemy a text of that (0.25 ms for 100 rows).
    columns = (cast(one, Text).label(one.name) if one.name == "job_id" else one for one in job.c)
    return (
        select(*columns, *_ACCOUNT_COLUMNS, state.c.failures)
        .select_from(
            job.outerjoin(state, state.c.job_id == job.c.job_id).outerjoin(
                dim_account, dim_account.c.account_key == state.c.account_key
            )
        )
        .order_by(job.c.job_id, dim_account.c.account_key)
    )


def _free(platform: ColumnElement[str], kind: ColumnElement[str], lane: DueLane) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions on accounts of one call and lane that no job holds."""
    return (
        scrape_state.c.platform == platform,
        scrape_state.c.kind == kind,
        # As the index has it: `failures > 0` negated in any other way isn't matched with it.
        (scrape_state.c.failures > 0).is_(lane == "retry"),
        scrape_state.c.job_id.is_(None),
    )


def _claim_of(lane: DueLane, *, one_host: bool) -> _Query:
    """Build the statement of `claim_due` for one lane."""
    due = (*_free(_PLATFORM, _KIND, lane), scrape_state.c.next_due_at <= _NOW)
    order = (scrape_state.c.is_core.desc(), scrape_state.c.next_due_at)
    if one_host:
        head = select(scrape_state.c.host).where(*due).order_by(*order).limit(1).with_for_update(skip_locked=True)
        # Said literally, so that the index of such hosts serves it.
        due = (*due, scrape_state.c.host == head.cte("head").select().scalar_subquery(), scrape_state.c.host != "")
    urgent = (
        select(scrape_state.c.account_key, scrape_state.c.subject, scrape_state.c.is_core, scrape_state.c.next_due_at)
        .where(*due)
        .order_by(*order)
        .limit(_BATCH * func.cardinality(_JOBS))
        .with_for_update(skip_locked=True)
        .cte("urgent")
    )
    place = func.row_number().over(order_by=(urgent.c.is_core.desc(), urgent.c.next_due_at, urgent.c.account_key))
    batched = select(
        urgent.c.account_key, urgent.c.subject, ((place + _BATCH - literal_column("1")) // _BATCH).label("number")
    ).cte("batched")
    jobs = func.unnest(_JOBS).table_valued("job_id", with_ordinality="number", name="jobs").render_derived()
    claimed = (
        update(scrape_state)
        .where(
            scrape_state.c.account_key == batched.c.account_key,
            scrape_state.c.subject == batched.c.subject,
            jobs.c.number == batched.c.number,
        )
        .values(job_id=jobs.c.job_id)
        .returning(scrape_state.c.account_key, scrape_state.c.failures, scrape_state.c.job_id)
        .cte("claimed")
    )
    values: dict[str, ColumnElement[Any]] = {
        "job_id": claimed.c.job_id,
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
        .from_select([*values], select(*values.values()).select_from(claimed).group_by(claimed.c.job_id))
        .returning(*_JOB_COLUMNS)
        .cte("job")
    )
    return _with_accounts(job, claimed)


_CLAIM_DUE = {(lane, one_host): _claim_of(lane, one_host=one_host) for lane in _LANES for one_host in (False, True)}


def try_plan_lock(conn: Connection) -> bool:
    """Take the planners' lock until the end of the transaction; False when another holds it."""
    return bool(conn.scalar(select(func.pg_try_advisory_xact_lock(_PLAN_LOCK))))


def claim_due(
    conn: Connection,
    *,
    platform: str,
    kind: Kind,
    lane: DueLane,
    batch: int,
    now: datetime,
    lease_until: datetime,
    job_ids: Sequence[str],
    one_host: bool = False,
) -> list[Job]:
    """Put the most urgent due accounts of a lane into new, queued jobs; no more of them than ids, nor than are due.

    Core accounts come first, then the longest due; `retry` holds those whose last attempt failed. With `one_host`,
    which a platform of many servers needs, the accounts are of one host, that of the most urgent. Accounts that
    another transaction is claiming are passed over.
    """
    values = {
        "of_platform": platform,
        "of_kind": kind,
        "batch": batch,
        "now": now,
        "lease_end": lease_until,
        "jobs": list(job_ids),
    }
    jobs = {job.job_id: job for job in _jobs(conn.execute(_CLAIM_DUE[lane, one_host], values))}
    return [jobs[job_id] for job_id in job_ids if job_id in jobs]


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


_END_LEASES = (
    update(scrape_job)
    .where(scrape_job.c.job_id == func.any(_JOBS), scrape_job.c.state == "queued")
    .values(lease_until=_NOW)
)


def end_leases(conn: Connection, job_ids: Sequence[str], *, now: datetime) -> None:
    """Let queued jobs go out again without waiting for the ends of their leases: their messages were never sent."""
    conn.execute(_END_LEASES, {"jobs": list(job_ids), "now": now})


_wanted = recordset("wanted", platform=Text, kind=Text, jobs=Integer)


def _expire() -> _Query:
    """Build the statement of `expired`: it gives each job a new lease and counts one more attempt of the dead."""
    is_over = scrape_job.c.lease_until <= _NOW
    begun = (
        select(scrape_job.c.job_id)
        .where(scrape_job.c.state == "running", is_over)
        .with_for_update(skip_locked=True)
        .cte("begun")
    )
    waiting = (
        select(scrape_job.c.job_id)
        .where(
            scrape_job.c.state == "queued",
            is_over,
            scrape_job.c.platform == _wanted.c.platform,
            scrape_job.c.kind == _wanted.c.kind,
        )
        .order_by((scrape_job.c.lane == "user_requested").desc(), scrape_job.c.lease_until, scrape_job.c.created_at)
        .limit(_wanted.c.jobs)
        .with_for_update(skip_locked=True)
        .lateral("waiting")
    )
    lost = select(waiting.c.job_id).select_from(_wanted.join(waiting, true())).cte("lost")
    over = union_all(select(begun.c.job_id), select(lost.c.job_id)).cte("over")
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
    conn: Connection,
    *,
    wanted: Mapping[Call, int] = {},
    now: datetime,
    lease_until: datetime,
    max_attempts: int,
) -> Expired:
    """Give out anew open jobs whose lease has ended: their worker or their message is lost, or a pause is over.

    All that were begun, and of those that only wait, so many of each call as are `wanted`, what people asked for first:
    a job that waits longer than its lease in a long queue isn't lost, and comes again at the pace of its queue only.
    One that began before goes to the retry lane, unless a person waits for it. One that began `max_attempts` times is
    dead: it is running under a further attempt, so that the caller (and nobody else) can finish it.
    """
    rows = conn.execute(
        _EXPIRE,
        {
            "wanted": as_json({"platform": p, "kind": k, "jobs": n} for (p, k), n in wanted.items() if n > 0),
            "now": now,
            "lease_end": lease_until,
            "max_attempts": max_attempts,
        },
    ).all()
    return Expired(
        again=_jobs(row for row in rows if row.state == "queued"),
        dead=_jobs(row for row in rows if row.state == "running"),
    )


_QUEUED = (
    select(scrape_job.c.platform, scrape_job.c.kind, func.count())
    .where(scrape_job.c.state == "queued")
    .group_by(scrape_job.c.platform, scrape_job.c.kind)
)
_LEASED = _QUEUED.where(scrape_job.c.lease_until > _NOW)


def backlog(conn: Connection, *, leased_at: datetime | None = None) -> dict[Call, int]:
    """Return the number of queued jobs by call; those without any are left out.

    With `leased_at`, only those whose lease lasts beyond that time: what should be in the broker's queues.
    """
    found = conn.execute(_QUEUED) if leased_at is None else conn.execute(_LEASED, {"now": leased_at})
    return {(platform, kind): count for platform, kind, count in found}


_asked = recordset("asked", platform=Text, kind=Text)


def _earliest(lane: DueLane, *, core: bool) -> ColumnElement[Any]:
    """Return when the first free account of a call, a lane and a rank is due: the first entry of an index."""
    return (
        select(scrape_state.c.next_due_at)
        .where(*_free(_asked.c.platform, _asked.c.kind, lane), scrape_state.c.is_core.is_(core))
        .order_by(scrape_state.c.next_due_at)
        .limit(literal_column("1"))
        .correlate(_asked)
        .scalar_subquery()
    )


_DUE = select(
    _asked.c.platform,
    _asked.c.kind,
    *((func.least(_earliest(lane, core=True), _earliest(lane, core=False)) <= _NOW).label(lane) for lane in _LANES),
)


def due(conn: Connection, calls: Collection[Call], *, now: datetime) -> dict[Call, tuple[DueLane, ...]]:
    """Return in which lanes accounts are due, by call; calls for which nothing is due are left out.

    One look into an index for each: asked before anything is claimed, it makes a tick cheap that finds nothing.
    """
    if not calls:
        return {}
    rows = conn.execute(_DUE, {"asked": as_json({"platform": p, "kind": k} for p, k in calls), "now": now})
    found = {(row.platform, row.kind): tuple(lane for lane in _LANES if getattr(row, lane)) for row in rows}
    return {call: lanes for call, lanes in found.items() if lanes}


# Paused accounts are due at infinity, from which no older PostgreSQL subtracts.
_WAITED = select(
    _asked.c.platform,
    *(
        func.extract("epoch", _NOW - func.least(_earliest(lane, core=True), _earliest(lane, core=False), _NOW)).label(
            lane
        )
        for lane in _LANES
    ),
)


def overdue_s(conn: Connection, calls: Collection[Call], *, now: datetime) -> dict[tuple[str, DueLane], float]:
    """Return for how long the account that has been due longest waits to be claimed, by platform and lane."""
    rows = conn.execute(_WAITED, {"asked": as_json({"platform": p, "kind": k} for p, k in calls), "now": now})
    found: dict[tuple[str, DueLane], float] = {}
    for row in rows:
        for lane in _LANES:
            found[row.platform, lane] = max(found.get((row.platform, lane), 0.0), float(getattr(row, lane)))
    return found


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
    return Account(
        row.account_key,
        row.platform,
        row.handle,
        row.url,
        row.host,
        row.external_id,
        row.seat,
        row.read_interval_s,
    )


_ACTIVE = select(dim_account.c.platform, *_ACCOUNT_COLUMNS).where(dim_account.c.is_active)


def active(conn: Connection, *, most: int) -> list[Account]:
    """Return the accounts that are read, at most so many."""
    return [_account(row) for row in conn.execute(_ACTIVE.order_by(dim_account.c.account_key).limit(most))]
