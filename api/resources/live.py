"""GET /api/live: tells a page that what it shows has changed, while accounts are being read."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

from falcon.asgi import Request, Response
from msgspec import Meta, Struct

from api.operations import Operation, Operations
from api.problems import Problem
from api.room import Room
from api.routes import Route
from api.schemas import parse
from api.streams import Watched
from db import progress, tags
from db.engine import DatabaseError, PoolTimeout, reading
from db.progress import Progress

EVENT_STREAM = "text/event-stream"
# After so long a page may ask again where it was turned away.
_RETRY = {"Retry-After": "30"}
Tag = Annotated[
    str,
    Meta(
        pattern=r"^(summary|account:[0-9]{1,18})$", description="summary (what every list shows) or account:42 (one)"
    ),
]


class LiveQuery(Struct, frozen=True, kw_only=True):
    """GET /api/live"""

    tag: Tag = tags.SUMMARY


class Live:
    """Server-sent events while accounts are read: `changed` (what bears the tag has changed: read it again),
    `progress` (`wanted` readings, of which `done` are neither due nor on their way) and `idle` (nothing is being read; the
    stream ends). Each comes at most every two seconds. A stream also ends with `LIVE_STREAM_S` and when the process
    stops: ask again.
    """

    operations = Operations(
        get=Operation(
            summary="What changes while accounts are read, as server-sent events.",
            query=LiveQuery,
            media_types=(EVENT_STREAM,),
            problems={
                503: "As many pages are told as LIVE_STREAMS allows, or changes can't be heard of at the moment."
            },
        )
    )

    def __init__(self, room: Room) -> None:
        self._room = room
        self._streams = room.streams
        self._watched = Watched(self._look)

    async def on_get(self, req: Request, resp: Response) -> None:
        query = parse(req.context.params, LiveQuery)
        if self._streams.is_full:
            raise Problem(503, "This process tells as many pages as it may (LIVE_STREAMS).", headers=_RETRY)
        if self._streams.ending.is_set() or not self._streams.purges.listening:
            raise Problem(503, "Changes can't be heard of at the moment.", headers=_RETRY)
        resp.set_header("Cache-Control", "no-store")
        resp.set_header("X-Accel-Buffering", "no")  # nginx would hold back what is smaller than its buffer
        resp.content_type = EVENT_STREAM
        if req.method == "GET":
            resp.stream = self._streams.open(query.tag, self._watched)

    on_head = on_get

    async def _look(self) -> Progress | None:
        return await asyncio.get_running_loop().run_in_executor(self._room.threads, self._read)

    def _read(self) -> Progress | None:
        try:
            # On the primary: a replica may not show yet what has just been asked for.
            with reading(self._room.engine) as conn:
                return progress.of_reading(conn)
        except (DatabaseError, PoolTimeout):
            return None


def routes(room: Room) -> Iterator[Route]:
    yield "/api/live", Live(room)
