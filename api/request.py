"""A request as this API sees it."""

import random
import time
from typing import Any

import falcon.asgi
from msgspec import Struct

from pipeline.trail import is_id

WARMING = "rollcall.warming"
"""Marks the scope of a request that this process makes itself; what comes through a socket can't bear it."""

MET = "rollcall.met"
"""Bears, in a scope, what went wrong where an answer was made before Falcon heard of the request (`Met`)."""


STALL = "rollcall.stall"
"""Bears, in a scope, a call by which an answer has a time of its own, in seconds, after which a client that takes nothing
of it is left. A server that has none for all answers gives none."""


class Met(Struct, frozen=True):
    """What a request met that `began` then (time.perf_counter): the answer that it is told in hasn't been made yet."""

    error: Exception
    began: float


def id_from(given: bytes | None) -> str:
    """Return the id that a request gives itself in X-Request-ID, or a new one: a name and no secret."""
    if given is not None and is_id(text := given.decode("latin-1")):
        return text
    return f"{random.getrandbits(128):032x}"


class ApiRequest(falcon.asgi.Request):
    """A request with its id and the time it began, from its first moment: some end before any middleware.

    Its query string is left alone: Falcon would decode it where no error handler stands yet, and answer bad UTF-8
    with a 500.
    """

    def __init__(self, scope: dict[str, Any], *args: Any, **options: Any) -> None:
        super().__init__({**scope, "query_string": b""}, *args, **options)
        self.raw_query: bytes = scope["query_string"]
        given = self.get_header("X-Request-ID")
        self.id = id_from(given.encode("latin-1") if given else None)
        self.met: Met | None = scope.get(MET)
        self.began = self.met.began if self.met else time.perf_counter()
        self.is_warming: bool = WARMING in scope
