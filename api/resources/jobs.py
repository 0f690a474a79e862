"""GET /api/jobs/{job_id}: what became of wanted work."""

import asyncio
import re
from collections.abc import Sequence
from concurrent.futures import Executor
from datetime import datetime

import msgspec
from falcon.asgi import Request, Response
from msgspec import Struct

from api.problems import Problem
from api.resources.lists import picked
from api.schemas import ObjectQuery, chosen_fields, parse
from db import reads
from db.engine import Engines
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


class OneJob:
    """A job as it stands now: never cached, since people wait for it."""

    def __init__(self, engines: Engines, threads: Executor) -> None:
        self._engines = engines
        self._threads = threads

    async def on_get(self, req: Request, resp: Response, job_id: str) -> None:
        names = chosen_fields(parse(req.context.params, ObjectQuery).fields, JobAnswer)
        job = None
        if _JOB_ID.fullmatch(job_id):
            job = await asyncio.get_running_loop().run_in_executor(self._threads, self._read, job_id)
        if job is None:
            raise Problem(404, f"There is no job {job_id[:80]}; finished ones are kept for a time only.")
        resp.data = msgspec.json.encode(picked(_answer(job), names))
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    def _read(self, job_id: str) -> JobReport | None:
        # On the primary: a job just asked for may not have reached a replica.
        with self._engines.transaction() as conn:
            return reads.job(conn, job_id)


def _answer(job: JobReport) -> JobAnswer:
    said = msgspec.structs.asdict(job)
    return JobAnswer(queue=queue_name(job.platform, said.pop("lane")), **said)
