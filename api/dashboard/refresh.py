"""POST /refresh/{platform}/{handle}: the button of an account's page that asks for a reading, where no script does."""

import asyncio
from collections.abc import Iterator
from urllib.parse import quote

from falcon.asgi import Request, Response

from api.cached import HTML
from api.dashboard.account import AccountPage, AccountPageQuery
from api.operations import Operation, Operations
from api.problems import Problem
from api.resources.refresh import Refresh
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse
from db.profiler import scoped


class RefreshForm:
    """Asks for a reading and leads to the account's page, which tells what becomes of it."""

    stands_on = "/accounts/{platform}/{handle}"
    operations = Operations(
        post=Operation(
            summary="Read an account now.",
            query=NoQuery,
            status=303,
            media_types=(HTML,),
            scope="refresh",
            problems={422: "It can't be read at the moment; its page says why."},
        )
    )

    def __init__(self, room: Room) -> None:
        self._threads = room.threads
        self._refresh = Refresh(room)
        self._page = AccountPage(room)

    async def on_post(self, req: Request, resp: Response, platform: str, handle: str) -> None:
        parse(req.context.params, NoQuery)
        name = f"{platform}/{handle}"
        ask = scoped("/refresh", self._refresh.ask)
        loop = asyncio.get_running_loop()
        try:
            jobs = await loop.run_in_executor(self._threads, ask, [name], f"page:{req.context.key.name}")
        except Problem as problem:
            if problem.status_code != 422:
                raise
            resp.status = 422
            await self._page.give_now(
                req, resp, platform, handle, AccountPageQuery(), refused=str(problem.description)
            )
            return
        after = f"?job={jobs[0].job_id}" if jobs else ""
        resp.status = 303
        resp.set_header("Location", f"/accounts/{quote(name, safe='/@:')}{after}")
        resp.set_header("Cache-Control", "no-store")


def routes(room: Room) -> Iterator[Route]:
    yield "/refresh/{platform}/{handle:path}", RefreshForm(room)
