"""POST /retry: asks once more for the accounts that stand alike for one reason, from the page of data health."""

import asyncio
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api import bodies
from api.cached import HTML
from api.operations import Operation, Operations
from api.problems import Fault, Problem, refuse
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db import health, overview
from db.engine import transaction
from db.overview import Chosen
from db.profiler import scoped
from db.reads import Clock
from pipeline.estimate import Wanted

log = structlog.get_logger()

# Jobs that the page tells of afterwards.
MOST_JOBS = 20
Retried = Literal["failing", "blocked", "gone"]
"""The statuses of accounts that may be asked for once more; others are due, and wait for their turn."""


class RetryForm(Struct, frozen=True, kw_only=True):
    """Which accounts: of a platform, with a status, for the reason that has this mark."""

    platform: str
    status: Retried
    mark: Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]


class Retry:
    """Asks for exactly those accounts that stand so now, and leads to the page, which tells what becomes of them."""

    stands_on = "/health"
    operations = Operations(
        post=Operation(
            summary="Read the accounts once more that weren't for one reason.",
            query=NoQuery,
            status=303,
            media_types=(HTML,),
            scope="refresh",
            problems={
                409: "No account stands so any more.",
                422: "None of them can be read at the moment: their platform needs a credential.",
            },
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        fields = await bodies.read_form(req, within_s=self._room.settings.api_body_timeout_s)
        try:
            form = msgspec.convert(fields, RetryForm)
        except msgspec.ValidationError as exc:
            raise refuse(Fault("$", f"is no form of the page: {exc}")) from exc
        ask = scoped("/retry", self._ask)
        loop = asyncio.get_running_loop()
        jobs = await loop.run_in_executor(self._room.threads, ask, form, f"page:{req.context.key.name}")
        resp.status = 303
        resp.set_header("Location", f"/health?jobs={','.join(jobs[:MOST_JOBS])}#failures")
        resp.set_header("Cache-Control", "no-store")

    def _ask(self, form: RetryForm, requested_by: str) -> list[str]:
        """Return the jobs that read the accounts."""
        wanted = Wanted(self._room.settings, self._room.platforms)
        for _ in wanted.sort(self._candidates(form)):
            pass
        if not wanted.total:
            raise _nothing(wanted)
        jobs: dict[str, None] = {}
        for part in self._room.enqueue.request_all(wanted.keys, requested_by=requested_by):
            jobs |= dict.fromkeys(part.jobs.values())
            if part.broker_error:  # no fault of the asker's: the jobs are kept and go out when it is back
                log.warning("broker_unreachable", error=part.broker_error)
        return list(jobs)

    def _candidates(self, form: RetryForm) -> list[overview.Candidate]:
        """Return the accounts that stand so now, on the primary."""
        now, stale_after = datetime.now(UTC), self._room.stale_after
        with transaction(self._room.engine) as conn:
            groups = health.standings(conn, now.date(), Clock(now, stale_after))
            reasons = [
                one.reason
                for one in groups
                if (one.platform, one.status) == (form.platform, form.status) and one.reason is not None
            ]
            reason = next((one for one in reasons if mark(one) == form.mark), None)
            if reason is None:
                return []
            which = Chosen(platform=form.platform, statuses=(form.status,), reason=reason)
            return list(overview.chosen(conn, which, now=now, stale_after=stale_after))


def mark(reason: str) -> str:
    """Return what stands for a reason in a form: browsers change line breaks, and long texts needn't travel."""
    return hashlib.sha256(reason.encode()).hexdigest()[:16]


def _nothing(wanted: Wanted) -> Problem:
    if not wanted.left_out:
        return Problem(
            409, "No account stands so any more: they have been read meanwhile, or for another reason not."
        )
    return Problem(422, f"None of these accounts can be read now: {'; '.join(wanted.left_out)}.")


def routes(room: Room) -> Iterator[Route]:
    yield "/retry", Retry(room)
