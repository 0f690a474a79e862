"""Ask for readings now: what the API, the dashboard and `rollcall enqueue` do for a person."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct

from db import claims
from db.engine import Engine, transaction
from pipeline import platforms
from pipeline.messages import publish_jobs
from pipeline.platforms import Platform
from pipeline.records import Job, Kind
from pipeline.settings import Settings


class Requested(Struct, frozen=True):
    """The job of each account that was asked for, by account_key; accounts that nothing can read are left out.

    `broker_error` says what kept the jobs from the broker. They stand in the database all the same: the planner
    gives them out when their lease ends.
    """

    jobs: Mapping[int, str]
    broker_error: str | None = None


class Enqueuer:
    """Puts accounts on the user-requested lane of their platform."""

    def __init__(self, settings: Settings, engine: Engine, celery: Celery) -> None:
        self._settings = settings
        self._engine = engine
        self._celery = celery
        self._batches = batches(settings)

    def request(self, account_keys: Sequence[int], *, requested_by: str) -> Requested:
        """Claim the accounts whatever their due time and publish their jobs, batched as the platforms take them.

        An account that is on its way already isn't claimed twice: its job is returned.
        """
        now = datetime.now(UTC)
        with transaction(self._engine) as conn:
            claimed = claims.claim_requested(
                conn,
                account_keys=account_keys,
                batches=self._batches,
                now=now,
                lease_until=now + timedelta(seconds=self._settings.job_lease_s),
                new_job_id=new_job_id,
                requested_by=requested_by,
            )
        mine = {account.account_key: job.job_id for job in claimed.jobs for account in job.accounts}
        return Requested({**claimed.joined, **mine}, broker_error=self._publish(claimed.jobs))

    def _publish(self, jobs: Sequence[Job]) -> str | None:
        """Publish what is committed; return why the broker didn't take it."""
        try:
            publish_jobs(self._celery, jobs)
        except (OperationalError, OSError) as exc:
            return str(exc)
        return None


def batches(settings: Settings) -> Mapping[tuple[str, Kind], int]:
    """Return the batch size of every kind of call that can be made with the credentials at hand."""
    return {
        (platform.name, kind): call.batch for platform in readable(settings) for kind, call in platform.calls.items()
    }


def readable(settings: Settings) -> list[Platform]:
    """Return the platforms that have a reader and every credential it needs."""
    return [p for p in platforms.load().values() if p.calls and not settings.lacks(p)]


def new_job_id() -> str:
    return str(uuid.uuid4())
