"""Ask for readings now: what the API, the dashboard and `rollcall enqueue` do for a person."""

import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from celery import Celery
from kombu.exceptions import OperationalError
from msgspec import Struct

from db import claims, jobs, pauses
from db.engine import Engine, transaction
from db.pauses import Pause
from pipeline import platforms
from pipeline.estimate import Alike
from pipeline.messages import publish_jobs
from pipeline.platforms import Platform
from pipeline.records import Job, Kind, Subject
from pipeline.settings import Settings

# Accounts a transaction and a batch of publishes, where very many are asked for.
CHUNK = 2_000


class Requested(Struct, frozen=True):
    """The job of each account that was asked for, by account_key; accounts that nothing can read are left out.

    `broker_error` says what kept the jobs from the broker. They stand in the database all the same: the planner
    gives them out when it is back. `paused` says until when a platform may not be called.
    """

    jobs: Mapping[int, str]
    broker_error: str | None = None
    paused: Mapping[str, Pause] = {}


class Enqueuer:
    """Puts accounts on the user-requested lane of their platform."""

    def __init__(self, settings: Settings, engine: Engine, celery: Celery) -> None:
        self._settings = settings
        self._engine = engine
        self._celery = celery
        self._batches = batches(settings)

    def request(self, account_keys: Sequence[int], *, requested_by: str, subject: Subject = "profile") -> Requested:
        """Claim the accounts whatever their due time and publish their jobs, batched as the platforms take them.

        An account that is on its way already isn't claimed twice: its job is returned, and hurried where it waits in
        another lane.
        """
        now = datetime.now(UTC)
        lease_until = now + timedelta(seconds=self._settings.job_lease_s)
        with transaction(self._engine) as conn:
            claimed = claims.claim_requested(
                conn,
                account_keys=account_keys,
                subject=subject,
                batches=self._batches,
                now=now,
                lease_until=lease_until,
                new_job_id=new_job_id,
                requested_by=requested_by,
            )
            paused = self._paused(pauses.standing(conn, now))
        hurried: list[Job] = []
        if claimed.joined:
            with transaction(self._engine) as conn:
                hurried = jobs.hurry(
                    conn,
                    set(claimed.joined.values()),
                    lease_until=lease_until,
                    paused=paused,
                    requested_by=requested_by,
                )
        mine = {account.account_key: job.job_id for job in claimed.jobs for account in job.accounts}
        return Requested({**claimed.joined, **mine}, self._publish([*claimed.jobs, *hurried], now), paused)

    def request_all(self, accounts: Mapping[Alike, Sequence[int]], *, requested_by: str) -> Iterator[Requested]:
        """Request any number of accounts, part by part, so that memory and locks don't grow with their number.

        What was yielded is committed and published. No call is split between two parts, so that it takes no more
        calls than all at once would.
        """
        posts = {one: keys for one, keys in accounts.items() if one[1] == "posts"}
        profiles = {one: keys for one, keys in accounts.items() if one not in posts}
        for part in self._parts(profiles):
            yield self.request(part, requested_by=requested_by)
        for part in self._parts(posts):
            yield self.request(part, requested_by=requested_by, subject="posts")

    def _parts(self, accounts: Mapping[Alike, Sequence[int]]) -> Iterator[Sequence[int]]:
        part: list[int] = []
        for (platform, kind, _), keys in accounts.items():
            size = self._batches[platform, kind]
            for start in range(0, len(keys), size):
                call = keys[start : start + size]
                if part and len(part) + len(call) > CHUNK:
                    yield part
                    part = []
                part.extend(call)
        if part:
            yield part

    def _paused(self, standing: Sequence[Pause]) -> dict[str, Pause]:
        """Return the pauses that a person waits for, by platform: none of its credentials may be used before then.

        A refused credential isn't waited for: what a person asks for tries it again.
        """
        found: dict[str, Pause] = {}
        for platform in readable(self._settings):
            labels = {one.label for one in self._settings.credentials(platform)}
            own = {p.credential: p for p in standing if p.platform == platform.name and p.credential in labels}
            if own and own.keys() == labels and (paused := pauses.of_all([*own.values()])).result != "blocked":
                found[platform.name] = paused
        return found

    def _publish(self, committed: Sequence[Job], now: datetime) -> str | None:
        """Publish what is committed; return why the broker didn't take it, so that the planner will."""
        try:
            publish_jobs(self._celery, committed)
        except (OperationalError, OSError) as exc:
            with transaction(self._engine) as conn:
                claims.end_leases(conn, [job.job_id for job in committed], now=now)
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
