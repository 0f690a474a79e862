"""GET /api/summary: every account with its newest reading."""

from collections.abc import Mapping
from functools import partial

from falcon.asgi import Request, Response

from api.cached import Cached
from api.resources.lists import read_list
from api.schemas import SummaryQuery, parse_list
from db import reads
from db.engine import Engines
from db.reads import AccountSummary

TTL_S = 300


class Summary:
    """The newest numbers of all accounts; one never read is among them, its numbers null."""

    def __init__(
        self, cached: Cached, engines: Engines, platforms: Mapping[str, object], *, stale_after_s: float
    ) -> None:
        self._cached = cached
        self._platforms = platforms
        self._read = partial(
            read_list, engines, of="summary", rows=reads.summary, row_type=AccountSummary, stale_after_s=stale_after_s
        )

    async def on_get(self, req: Request, resp: Response) -> None:
        params = req.context.params
        query = parse_list(params, SummaryQuery, "summary", self._platforms)
        read = partial(self._read, query=query, path=req.path, params=params)
        await self._cached.give(req, resp, ttl_s=TTL_S, read=read)

    on_head = on_get
