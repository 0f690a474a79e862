"""How the jobs stand that aren't done: waiting in a queue, held by a worker, or with a lease that is over."""

from datetime import datetime

from msgspec import Struct
from sqlalchemy import Connection, bindparam, func, select

from db.models import UTC, scrape_job
from db.rows import Lane


class OpenJobs(Struct, frozen=True):
    """The open jobs of one queue. `queued_accounts` are those in the jobs that wait, `oldest_at` the oldest's begin."""

    platform: str
    lane: Lane
    queued: int
    queued_accounts: int
    oldest_at: datetime | None
    running: int
    expired: int


_is_queued = scrape_job.c.state == "queued"
_OPEN = (
    select(
        scrape_job.c.platform,
        scrape_job.c.lane,
        func.count().filter(_is_queued),
        func.coalesce(func.sum(func.cardinality(scrape_job.c.accounts)).filter(_is_queued), 0),
        func.min(scrape_job.c.created_at).filter(_is_queued),
        func.count().filter(scrape_job.c.state == "running"),
        func.count().filter(scrape_job.c.lease_until < bindparam("now", type_=UTC)),
    )
    .where(scrape_job.c.state.in_(["queued", "running"]))
    .group_by(scrape_job.c.platform, scrape_job.c.lane)
)


def open_jobs(conn: Connection, *, now: datetime) -> list[OpenJobs]:
    """Return every queue that has open jobs."""
    return [OpenJobs(*row) for row in conn.execute(_OPEN, {"now": now})]
