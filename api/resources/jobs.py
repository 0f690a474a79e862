"""GET /api/jobs and /api/jobs/{job_id}: what became of wanted work. Read on the primary, which knows a new job at once."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.cache.entries import Content
from api.fresh import give_fresh
from api.lists import Ask, ListResource, Opened, listing, picked
from api.operations import Operation, Operations
from api.problems import Problem
from api.room import Room
from api.routes import Route
from api.schemas import JobsQuery, ObjectQuery, chosen_fields, parse
from db import jobs, reads
from db.engine import Connection
from db.jobs import Shown, Which
from db.reads import JobAccount, JobReport
from db.rows import JobState, Kind
from pipeline.lanes import queue_name

_JOB_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


class JobAnswer(Struct, frozen=True, kw_only=True):
    """A job and each of its accounts; `result` and `reason` of an account are null until the job has finished."""

    job_id: str
    platform: str
    kind: Kind
    queue: str
    state: JobState
    reason: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    accounts: Sequence[JobAccount]


class Jobs(ListResource[JobsQuery]):
    """The jobs that are kept, newest first."""

    query, rows = JobsQuery, Shown
    operations = listing("Jobs, newest first.", query, rows)
    sortable = jobs.SORTABLE
    ttl_s = None

    def open(self, conn: Connection, ask: Ask[JobsQuery]) -> Opened:
        asked = ask.query
        which = Which(platform=asked.platform, kind=asked.kind, lane=asked.lane, state=asked.state)
        return Opened(
            part=lambda window: jobs.part(conn, ask.names, which, asked.order, window),
            total=jobs.count(conn, which),
            as_of=ask.clock.now,
            deepest=jobs.MOST_COUNTED,
        )


class OneJob:
    """A job as it stands now: never cached, since people wait for it."""

    operations = Operations(
        get=Operation(summary="A job and what became of each account.", query=ObjectQuery, answer=JobAnswer)
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        names = chosen_fields(parse(req.context.params, ObjectQuery).fields, JobAnswer)

        def read(conn: Connection) -> Content:
            job = reads.job(conn, job_id) if _JOB_ID.fullmatch(job_id) else None
            if job is None:
                raise Problem(404, f"There is no job {job_id[:80]}; finished ones are kept for a time only.")
            return Content(body=msgspec.json.encode(picked(_answer(job), names)), tags=frozenset(), modified_at=None)

        await give_fresh(self._room, req, resp, read=read)

    on_head = on_get


def _answer(job: JobReport) -> JobAnswer:
    said = msgspec.structs.asdict(job)
    return JobAnswer(queue=queue_name(job.platform, said.pop("lane")), **said)


def routes(room: Room) -> Iterator[Route]:
    yield "/api/jobs", Jobs(room)
    yield "/api/jobs/{job_id}", OneJob(room)
