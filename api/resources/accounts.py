"""GET /api/accounts and /api/accounts/{platform}/{handle}: the account list with its standing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec
from falcon.asgi import Request, Response

from api.cache.entries import Content
from api.cached import Cached
from api.resources.lists import picked, read_list
from api.resources.naming import find_account
from api.schemas import AccountsQuery, ObjectQuery, chosen_fields, parse, parse_list
from db import reads, tags
from db.engine import Engines
from db.reads import AccountStanding, Clock, PastHandle
from pipeline.platforms import Platform

TTL_S = 900


class AccountDetail(AccountStanding, frozen=True, kw_only=True):
    """One account, with every name it has had, and why its platform doesn't tell some of its numbers."""

    handle_history: list[PastHandle]
    not_offered: dict[str, str]


class Accounts:
    """The account list."""

    def __init__(
        self, cached: Cached, engines: Engines, platforms: Mapping[str, object], *, stale_after_s: float
    ) -> None:
        self._cached = cached
        self._platforms = platforms
        self._read = partial(
            read_list,
            engines,
            of="accounts",
            rows=reads.standings,
            row_type=AccountStanding,
            stale_after_s=stale_after_s,
        )

    async def on_get(self, req: Request, resp: Response) -> None:
        params = req.context.params
        query = parse_list(params, AccountsQuery, "accounts", self._platforms)
        read = partial(self._read, query=query, path=req.path, params=params)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get


class OneAccount:
    """One account by any handle it has had."""

    def __init__(
        self, cached: Cached, engines: Engines, platforms: Mapping[str, Platform], *, stale_after_s: float
    ) -> None:
        self._cached = cached
        self._engines = engines
        self._platforms = platforms
        self._stale_after_s = stale_after_s

    async def on_get(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        query = parse(req.context.params, ObjectQuery)
        names = chosen_fields(query.fields, AccountDetail)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=lambda: self._read(platform, handle, names))

    on_head = on_get

    def _read(self, platform: str, handle: str, names: tuple[str, ...] | None) -> Content:
        with self._engines.reading() as conn:
            clock = Clock(datetime.now(UTC), self._stale_after_s)
            account = find_account(conn, self._platforms, platform, handle, clock)
            past = reads.handles(conn, account.account_key)
        why_not = self._platforms[account.platform].not_offered.reasons
        detail = AccountDetail(**msgspec.structs.asdict(account), handle_history=past, not_offered=why_not)
        return Content(
            body=msgspec.json.encode(picked(detail, names)),
            tags=frozenset({tags.account(account.account_key)}),
            modified_at=account.last_attempt_at,
        )
