"""POST /api/refresh: a reading now, on the user-requested queue."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct

from api import bodies
from api.naming import named_in_body, unknown
from api.operations import Operation, Operations
from api.problems import Fault, Problem
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, RefreshBody, parse
from db import accounts, overview
from db.accounts import Sought
from db.engine import transaction
from db.profiler import scoped
from pipeline.estimate import sorted_out

log = structlog.get_logger()


class RefreshJob(Struct, frozen=True):
    """The job that reads an account; one job may read many."""

    account: str
    job_id: str
    href: str


class RefreshAnswer(Struct, frozen=True):
    """The job of each account that was asked for."""

    jobs: list[RefreshJob]


class Refresh:
    """Enqueues accounts. All of them or, when one can't be read, none: half a refresh looks like a whole one.

    `Location` is the job that reads the accounts; the first one, where several do.
    """

    operations = Operations(
        post=Operation(
            summary="Read accounts now.",
            query=NoQuery,
            body=RefreshBody,
            answer=RefreshAnswer,
            status=202,
            scope="refresh",
            headers={"Location": "The job that reads the accounts; the first one, where several do."},
            problems={
                404: "One of the accounts isn't in the list.",
                422: "One of the accounts can't be read at the moment: it is paused, or its platform needs a credential.",
            },
        )
    )

    def __init__(self, room: Room) -> None:
        self._engine = room.engine
        self._threads = room.threads
        self._enqueue = room.enqueue
        self._platforms = room.platforms
        self._settings = room.settings

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        body = await bodies.read(req, RefreshBody, within_s=self._settings.api_body_timeout_s)
        names = list(dict.fromkeys(body.accounts))
        by = f"api:{req.context.key.name}"
        ask = scoped("/api/refresh", self.ask)
        jobs = await asyncio.get_running_loop().run_in_executor(self._threads, ask, names, by)
        if jobs:
            resp.set_header("Location", jobs[0].href)
        resp.status = 202
        resp.data = msgspec.json.encode(RefreshAnswer(jobs))
        resp.set_header("Cache-Control", "no-store")

    def ask(self, names: Sequence[str], requested_by: str) -> list[RefreshJob]:
        """Enqueue accounts and return their jobs; it blocks. Raises Problem where one of them can't be read."""
        keys = self._readable(names)
        requested = self._enqueue.request(list(keys.values()), requested_by=requested_by)
        if requested.broker_error:  # no fault of the asker's: the jobs are kept and go out when it is back
            log.warning("broker_unreachable", error=requested.broker_error)
        return [
            RefreshJob(name, requested.jobs[key], f"/api/jobs/{requested.jobs[key]}")
            for name, key in keys.items()
            if key in requested.jobs  # not one that was paused this instant
        ]

    def _readable(self, names: Sequence[str]) -> Mapping[str, int]:
        """Return the account_key of each name. Raises the Problem that tells what is wrong with every one."""
        wanted = {name: named_in_body("accounts", name, self._platforms) for name in names}
        named = {name: account for name, account in wanted.items() if isinstance(account, Sought)}
        with transaction(self._engine) as conn:
            found = dict(zip(named, accounts.find_each(conn, list(named.values())), strict=True))
            keys = {name: key for name, key in found.items() if key is not None}
            candidates = overview.candidates(conn, list(keys.values()))
            listed = accounts.names(conn) if len(keys) < len(named) else []
        _, left_out = sorted_out(candidates, self._settings, self._platforms)
        faults = {
            400: [account for account in wanted.values() if isinstance(account, Fault)],
            404: [unknown("accounts", name, listed) for name in named if name not in keys],
            422: [Fault("accounts", f"{one.account!r} can't be read: {one.reason}") for one in left_out],
        }
        for status, at_fault in faults.items():
            if at_fault:
                raise _refusal(status, [fault for some in faults.values() for fault in some])
        return keys


def _refusal(status: int, faults: Sequence[Fault]) -> Problem:
    return Problem(status, "; ".join(fault.reason for fault in faults), faults=faults)


def routes(room: Room) -> Iterator[Route]:
    yield "/api/refresh", Refresh(room)
