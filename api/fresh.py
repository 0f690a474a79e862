"""An answer that no cache keeps: read now, on the primary, which shows what was just written."""

import asyncio

from falcon.asgi import Request, Response

from api import encodings
from api.cache.entries import Content
from api.cache.reader import Read
from api.cached import JSON
from api.room import Room
from db.engine import reading
from db.profiler import scoped


async def give_fresh(room: Room, req: Request, resp: Response, *, read: Read, media_type: str = JSON) -> None:
    """Answer with what `read` makes."""

    def make() -> Content:
        with reading(room.engine) as conn:
            return read(conn)

    content = await asyncio.get_running_loop().run_in_executor(room.threads, scoped(str(req.uri_template), make))
    encoding = encodings.negotiate(req.get_header("Accept-Encoding"))
    resp.set_headers(content.headers)
    resp.set_header("Cache-Control", "no-store")
    resp.append_header("Vary", "Accept-Encoding")
    if encoding != "identity":
        resp.set_header("Content-Encoding", encoding)
    resp.content_type = media_type
    resp.data = encodings.compress(content.body, encoding)
