"""POST /api/refresh: a reading now, on the user-requested queue."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol

import msgspec
from falcon.asgi import Request, Response
from kombu.exceptions import OperationalError
from msgspec import Struct

from api.middleware import LARGEST_BODY_BYTES
from api.problems import Fault, Problem, refuse
from api.resources.naming import sought
from api.schemas import RefreshBody, parse
from db import accounts, overview
from db.accounts import Sought
from db.engine import Connection, Engines
from db.keys import Scope
from pipeline import addresses
from pipeline.enqueue import Requested
from pipeline.estimate import sorted_out
from pipeline.platforms import Platform
from pipeline.settings import Settings


class Enqueue(Protocol):
    """What puts accounts on the user-requested lane (`pipeline.enqueue.Enqueuer`)."""

    def request(self, account_keys: Sequence[int], *, requested_by: str) -> Requested: ...


class RefreshJob(Struct, frozen=True):
    """The job that reads an account; one job may read many."""

    account: str
    job_id: str
    href: str


class NoQuery(Struct, frozen=True):
    """A request without parameters."""


class Refresh:
    """Enqueues accounts. All of them or, when one can't be read, none: half a refresh looks like a whole one."""

    scope: Scope = "refresh"

    def __init__(
        self,
        engines: Engines,
        threads: Executor,
        enqueue: Enqueue,
        platforms: Mapping[str, Platform],
        settings: Settings,
    ) -> None:
        self._engines = engines
        self._threads = threads
        self._enqueue = enqueue
        self._platforms = platforms
        self._settings = settings

    async def on_post(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        names = list(dict.fromkeys(_decoded(await _body(req)).accounts))
        by = f"api:{req.context.key.name}"
        jobs = await asyncio.get_running_loop().run_in_executor(self._threads, self._ask, names, by)
        if len({job.job_id for job in jobs}) == 1:
            resp.set_header("Location", jobs[0].href)
        resp.status = 202
        resp.data = msgspec.json.encode({"jobs": jobs})
        resp.set_header("Cache-Control", "no-store")

    def _ask(self, names: Sequence[str], requested_by: str) -> list[RefreshJob]:
        wanted = [self._sought(name) for name in names]
        with self._engines.transaction() as conn:
            found = accounts.find_each(conn, wanted)
            unknown = [_unknown(conn, name) for name, key in zip(names, found, strict=True) if key is None]
            keys = [key for key in found if key is not None]
            candidates = overview.candidates(conn, keys)
        if unknown:
            raise _refusal(404, unknown)
        _, left_out = sorted_out(candidates, self._settings, self._platforms)
        if left_out:
            raise _refusal(422, [Fault(one.account, one.reason) for one in left_out])
        try:
            jobs = self._enqueue.request(keys, requested_by=requested_by).jobs
        except OperationalError as exc:
            # The jobs stand in the database and go out again by themselves; asking again returns the same ones.
            raise Problem(503, "The queue can't be reached at the moment.", headers={"Retry-After": "5"}) from exc
        return [
            RefreshJob(name, jobs[key], f"/api/jobs/{jobs[key]}")
            for name, key in zip(names, keys, strict=True)
            if key in jobs  # not one that was paused this instant
        ]

    def _sought(self, name: str) -> Sought:
        platform, slash, handle = name.partition("/")
        if not slash or not name.isprintable():
            raise refuse(Fault("accounts", f"{name[:80]!r} is not written as platform/handle"))
        return sought(self._platforms, platform, handle)


async def _body(req: Request) -> bytes:
    """Read the body, which may come in chunks of no announced length, as far as it may go."""
    body: bytes = await req.stream.read(LARGEST_BODY_BYTES + 1)
    if len(body) > LARGEST_BODY_BYTES:
        raise Problem(413, f"A body holds at most {LARGEST_BODY_BYTES:,} bytes.")
    return body


def _decoded(body: bytes) -> RefreshBody:
    try:
        return msgspec.json.decode(body, type=RefreshBody)
    except msgspec.ValidationError as exc:
        reason, _, path = str(exc).partition(" - at ")
        raise refuse(Fault(path.strip("`") or "$", reason)) from exc
    except ValueError as exc:  # not JSON, or not UTF-8
        raise refuse(Fault("$", f"is not JSON: {exc}")) from exc


def _unknown(conn: Connection, name: str) -> Fault:
    """Say that an account is unknown, and which ones are called nearly so."""
    near = addresses.nearest(name, accounts.names(conn))
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    return Fault(name[:80], f"is not in the list{offer}")


def _refusal(status: int, faults: Sequence[Fault]) -> Problem:
    return Problem(status, "; ".join(f"{fault.field} {fault.reason}" for fault in faults), faults=faults)
