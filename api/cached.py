"""A cacheable answer over HTTP: coding, validators, and the headers that tell other caches what to do."""

import re
from collections.abc import Callable

from falcon.asgi import Request, Response

from api import encodings
from api.cache.answers import Answers
from api.cache.entries import Content, Key

JSON = "application/json"
HTML = "text/html; charset=utf-8"


class Cached:
    """Answers GET and HEAD. `private` keeps answers that need a key out of caches that others share."""

    def __init__(self, answers: Answers, *, private: bool) -> None:
        self._answers = answers
        # Caches outside don't hear our purges: they may keep an answer, but must ask each time whether it holds.
        self._control = f"{'private' if private else 'public'}, no-cache"

    async def give(
        self, req: Request, resp: Response, *, ttl_s: int, read: Callable[[], Content], media_type: str = JSON
    ) -> None:
        """Answer with what the caches hold for this path and query, or with what `read` makes."""
        encoding = encodings.negotiate(req.get_header("Accept-Encoding"))
        key = Key(req.path, tuple(sorted(req.context.params.items())), media_type, encoding)
        answer, level = await self._answers.get(key, ttl_s, read)
        resp.set_header("ETag", answer.etag)
        resp.set_header("Cache-Control", self._control)
        resp.append_header("Vary", "Accept-Encoding")
        resp.set_header("Surrogate-Key", " ".join(answer.tags))
        resp.set_header("X-Cache", level)
        if answer.modified_at is not None:
            resp.last_modified = answer.modified_at
        if _matches(req.get_header("If-None-Match"), answer.etag):
            resp.status = 304
            return
        if answer.encoding != "identity":
            resp.set_header("Content-Encoding", answer.encoding)
        resp.content_type = media_type
        resp.data = answer.body


def _matches(condition: str | None, etag: str) -> bool:
    """Tell whether an If-None-Match header names this answer (weakly compared, as RFC 9110 13.1.2 says)."""
    if condition is None:
        return False
    return condition.strip() == "*" or etag in re.findall(r'"[^"]*"', condition)
