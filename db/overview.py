"""What the command line asks: which accounts a request means, how its jobs go, and how the whole stands."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime

from msgspec import Struct
from sqlalchemy import ARRAY, BigInteger, Connection, any_, bindparam, func, select
from sqlalchemy.dialects.postgresql import UUID

from db.accounts import NAME
from db.models import dim_account, scrape_job, scrape_state
from db.rows import JobState, Kind, Result
from db.standing import Status, status


class Candidate(Struct, frozen=True):
    """An account that could be read: `kind` is the call that would read its profile next."""

    account_key: int
    platform: str
    host: str
    name: str
    kind: Kind
    is_active: bool


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
        return self.state not in ("queued", "running")


class Group(Struct, frozen=True):
    """Accounts of one platform that stand the same, for the same reason."""

    status: Status
    platform: str
    reason: str | None
    accounts: int


_PROFILES = dim_account.join(
    scrape_state,
    (scrape_state.c.account_key == dim_account.c.account_key) & (scrape_state.c.subject == "profile"),
)
_CANDIDATES = (
    select(
        dim_account.c.account_key,
        dim_account.c.platform,
        dim_account.c.host,
        NAME,
        scrape_state.c.kind,
        dim_account.c.is_active,
    )
    .select_from(_PROFILES)
    .order_by(dim_account.c.account_key)
)


def candidates(conn: Connection, account_keys: Sequence[int]) -> list[Candidate]:
    """Return these accounts, paused ones too."""
    asked = bindparam("account_keys", list(account_keys), type_=ARRAY(BigInteger))
    return [Candidate(*row) for row in conn.execute(_CANDIDATES.where(dim_account.c.account_key == any_(asked)))]


def active_candidates(conn: Connection, *, platform: str | None = None, failed: bool = False) -> list[Candidate]:
    """Return the accounts that aren't paused: all, those of a platform, those whose last attempt failed."""
    query = _CANDIDATES.where(dim_account.c.is_active)
    if platform is not None:
        query = query.where(dim_account.c.platform == platform)
    if failed:
        query = query.where(scrape_state.c.result == "failed")
    return [Candidate(*row) for row in conn.execute(query)]


_JOBS = select(scrape_job.c.job_id, scrape_job.c.state, scrape_job.c.reason, scrape_job.c.outcomes).where(
    scrape_job.c.job_id == any_(bindparam("job_ids", type_=ARRAY(UUID(as_uuid=False))))
)


def jobs(conn: Connection, job_ids: Collection[str]) -> dict[str, JobProgress]:
    """Return how far each job is; one that was pruned is left out."""
    return {
        job_id: JobProgress(job_id, state, reason, tuple(AccountResult(**outcome) for outcome in outcomes or ()))
        for job_id, state, reason, outcomes in conn.execute(_JOBS, {"job_ids": list(job_ids)})
    }


def groups(conn: Connection, *, now: datetime, stale_after_s: float) -> list[Group]:
    """Return how many accounts stand how, per platform and reason; the largest group of a status first."""
    standing = status(now, stale_after_s)
    count = func.count()
    query = (
        select(standing, dim_account.c.platform, scrape_state.c.reason, count)
        .select_from(_PROFILES)
        .group_by(standing, dim_account.c.platform, scrape_state.c.reason)
        .order_by(standing, count.desc(), dim_account.c.platform)
    )
    return [Group(*row) for row in conn.execute(query)]


def last_reading(conn: Connection) -> datetime | None:
    """Return when an account was last read, None before the first time."""
    newest: datetime | None = conn.execute(select(func.max(scrape_state.c.last_success_at))).scalar_one()
    return newest


def account_counts(conn: Connection) -> Mapping[str, int]:
    """Return how many accounts that aren't paused each platform has."""
    query = (
        select(dim_account.c.platform, func.count())
        .where(dim_account.c.is_active)
        .group_by(dim_account.c.platform)
        .order_by(dim_account.c.platform)
    )
    return dict(conn.execute(query).all())


def clock(conn: Connection) -> datetime:
    """Return what the database's clock says."""
    says: datetime = conn.execute(select(func.clock_timestamp())).scalar_one()
    return says


def keys_by_platform(conn: Connection) -> Mapping[str, Sequence[int]]:
    """Return every account_key, paused accounts' too."""
    query = select(dim_account.c.platform, func.array_agg(dim_account.c.account_key)).group_by(dim_account.c.platform)
    return dict(conn.execute(query).all())
