"""/api/accounts and /api/accounts/{platform}/{handle}: the account list with its standing, and what a person sets in it."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import structlog
from falcon.asgi import Request, Response
from msgspec import UNSET, structs

from api import bodies
from api.cache.entries import Content
from api.lists import AccountList, listing, picked
from api.naming import find_account, find_key, tags_of
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import (
    AccountBody,
    AccountsQuery,
    NoQuery,
    ObjectQuery,
    check_lines,
    chosen_fields,
    parse,
)
from db import reads, tags
from db.engine import Connection, reading
from db.profiler import scoped
from db.reads import AccountStanding, Clock, PastHandle
from pipeline.accounts import amend

log = structlog.get_logger()

TTL_S = 900


class AccountDetail(AccountStanding, frozen=True, kw_only=True):
    """One account, with every name it has had, and why its platform doesn't tell some of its numbers."""

    handle_history: list[PastHandle]
    not_offered: dict[str, str]


class Accounts(AccountList[AccountsQuery]):
    """The account list."""

    query, rows = AccountsQuery, AccountStanding
    operations = listing("The account list with how each account stands.", query, rows)
    sortable = reads.SORTABLE["accounts"]
    of: reads.ListName = "accounts"
    tag = tags.ACCOUNTS
    ttl_s = TTL_S


class OneAccount:
    """One account by any handle it has had."""

    operations = Operations(
        get=Operation(
            summary="One account by any handle it has had.", query=ObjectQuery, answer=AccountDetail, kept_s=TTL_S
        ),
        patch=Operation(
            summary="Pause or resume an account, or say whose it is.",
            query=NoQuery,
            body=AccountBody,
            answer=AccountDetail,
            scope="admin",
        ),
    )

    def __init__(self, room: Room) -> None:
        self._cached = room.cached
        self._platforms = room.platforms
        self._stale_after = room.stale_after
        self._engine = room.engine
        self._threads = room.threads
        self._purge = room.purge
        self._body_s = room.settings.api_body_timeout_s

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, ObjectQuery)
        names = chosen_fields(query.fields, AccountDetail)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=lambda conn: self._read(conn, platform, handle, names))

    on_head = on_get

    async def on_patch(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        parse(req.context.params, NoQuery)
        body = await bodies.read(req, AccountBody, within_s=self._body_s)

        def change() -> bytes:
            self.change(platform, handle, body, req.context.key.name)
            with reading(self._engine) as conn:  # the primary: a replica may not have it yet
                return self._read(conn, platform, handle, None).body

        changed = scoped("/api/accounts/{platform}/{handle}", change)
        resp.data = await asyncio.get_running_loop().run_in_executor(self._threads, changed)
        resp.set_header("Cache-Control", "no-store")

    def change(self, platform: str, handle: str, body: AccountBody, by: str) -> None:
        """Set what is said and tell everyone; it blocks. Raises Problem for what can't be, and an unknown account."""
        check_lines(body)
        said = {name: value for name, value in structs.asdict(body).items() if value is not UNSET}
        with reading(self._engine) as conn:
            key = find_key(conn, self._platforms, platform, handle)
        amended = amend(self._engine, key, said, now=datetime.now(UTC))
        if amended and amended.changes:
            self._purge(amended.tags)
            log.info("account_changed", account=amended.account, by=by, changes=msgspec.to_builtins(amended.changes))

    def _read(self, conn: Connection, platform: str, handle: str, names: tuple[str, ...] | None) -> Content:
        clock = Clock(datetime.now(UTC), self._stale_after)
        account = find_account(conn, self._platforms, platform, handle, clock)
        past = reads.handles(conn, account.account_key)
        why_not = self._platforms[account.platform].not_offered.reasons
        detail = AccountDetail(**structs.asdict(account), handle_history=past, not_offered=why_not)
        return Content(
            body=msgspec.json.encode(picked(detail, names)),
            tags=tags_of(account, handle) | {tags.standing(account.platform)},
            modified_at=account.last_attempt_at,
            account=tags.account(account.account_key),
        )


def routes(room: Room) -> Iterator[Route]:
    yield "/api/accounts", Accounts(room)
    yield "/api/accounts/{platform}/{handle:path}", OneAccount(room)
