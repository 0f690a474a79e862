"""GET /openapi.json: what this API takes and answers, for programs."""

import math
from collections.abc import Iterator
from typing import Any

import msgspec
from falcon.asgi import Request, Response

from api.cached import JSON
from api.fixed import Fixed
from api.openapi.document import document
from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from api.schemas import NoQuery, parse


class Description:
    """This document (OpenAPI 3.1). `/docs` shows it to people."""

    operations = Operations(
        get=Operation(
            summary="This document.", query=NoQuery, answer=dict[str, Any], always_open=True, kept_s=math.inf
        )
    )

    def __init__(self, room: Room) -> None:
        def make() -> bytes:
            return msgspec.json.encode(document(room))

        self._fixed = Fixed(make, media_type=JSON, tag="openapi", threads=room.threads)

    async def on_get(self, req: Request, resp: Response) -> None:
        parse(req.context.params, NoQuery)
        await self._fixed.give(req, resp)

    on_head = on_get


def routes(room: Room) -> Iterator[Route]:
    yield "/openapi.json", Description(room)
