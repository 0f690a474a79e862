"""POST /api/refresh: a reading now, on the user-requested queue."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Protocol

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import Struct

from api.middleware import LARGEST_BODY_BYTES
from api.problems import Fault, Problem, refuse
from api.resources.naming import sought
from api.schemas import RefreshBody, parse
from db import accounts, overview
from db.accounts import Sought
from db.engine import Engines
from db.keys import Scope
from pipeline import addresses
from pipeline.enqueue import Requested
from pipeline.estimate import sorted_out
from pipeline.platforms import Platform
from pipeline.settings import Settings

log = structlog.get_logger()


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
    """Enqueues accounts. All of them or, when one can't be read, none: half a refresh looks like a whole one.

    `Location` is the job that reads the accounts; the first one, where several do.
    """

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
        if jobs:
            resp.set_header("Location", jobs[0].href)
        resp.status = 202
        resp.data = msgspec.json.encode({"jobs": jobs})
        resp.set_header("Cache-Control", "no-store")

    def _ask(self, names: Sequence[str], requested_by: str) -> list[RefreshJob]:
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
        wanted = {name: self._sought(name) for name in names}
        named = {name: account for name, account in wanted.items() if isinstance(account, Sought)}
        with self._engines.transaction() as conn:
            found = dict(zip(named, accounts.find_each(conn, list(named.values())), strict=True))
            keys = {name: key for name, key in found.items() if key is not None}
            candidates = overview.candidates(conn, list(keys.values()))
            listed = accounts.names(conn) if len(keys) < len(named) else []
        _, left_out = sorted_out(candidates, self._settings, self._platforms)
        faults = {
            400: [account for account in wanted.values() if isinstance(account, Fault)],
            404: [_unknown(name, listed) for name in named if name not in keys],
            422: [Fault("accounts", f"{one.account!r} can't be read: {one.reason}") for one in left_out],
        }
        for status, at_fault in faults.items():
            if at_fault:
                raise _refusal(status, [fault for some in faults.values() for fault in some])
        return keys

    def _sought(self, name: str) -> Sought | Fault:
        """Return what to look for, or what is wrong with the name."""
        platform, slash, handle = name.partition("/")
        if not slash or not name.isprintable():
            return Fault("accounts", f"{name[:80]!r} is not written as platform/handle")
        try:
            return sought(self._platforms, platform, handle)
        except Problem as exc:
            return Fault("accounts", f"{name[:80]!r}: {exc.faults[0].reason}")


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
        raise refuse(Fault(path.strip("`").removeprefix("$.") or "$", reason)) from exc
    except ValueError as exc:  # not JSON, or not UTF-8
        raise refuse(Fault("$", f"is not JSON: {exc}")) from exc


def _unknown(name: str, listed: Sequence[str]) -> Fault:
    """Say that an account is unknown, and which ones are called nearly so."""
    near = addresses.nearest(name, listed)
    offer = f"; did you mean {' or '.join(near)}?" if near else ""
    return Fault("accounts", f"{name[:80]!r} is not in the list{offer}")


def _refusal(status: int, faults: Sequence[Fault]) -> Problem:
    return Problem(status, "; ".join(fault.reason for fault in faults), faults=faults)
