"""A total time for each request: what isn't answered by then is a 503, and whoever waits in line for it leaves the line.

A read that is under way in its thread ends by the database's own limit (DB_READ_TIMEOUT_S), which is shorter.
"""

import asyncio
import types
from collections.abc import Callable, Coroutine, Generator
from functools import wraps
from typing import Any, TypeVar

from falcon.asgi import Request, Response

from api.problems import Problem

T = TypeVar("T")
Responder = Callable[..., Coroutine[Any, Any, None]]
_RETRY = {"Retry-After": "5"}


def limit(resource: object, limit_s: float) -> None:
    """Give each responder of a resource at most so long. A body that is streamed afterwards isn't part of it.

    A resource that keeps time by itself says so (`keeps_time`): an export may take longer to be whole.
    """
    if getattr(resource, "keeps_time", False):
        return
    for name in dir(resource):
        if name.startswith("on_"):
            setattr(resource, name, _limited(getattr(resource, name), limit_s))


async def within(running: Coroutine[Any, Any, T], limit_s: float) -> T:
    """Return what a coroutine returns. Raises Problem 503 where it takes longer."""
    # A hit never waits for anything, so it is spared the price of a timer: a tenth of what it costs altogether.
    try:
        waits_for = running.send(None)
    except StopIteration as ended:
        found: T = ended.value
        return found
    timer = asyncio.timeout(limit_s)
    try:
        async with timer:
            return await _rest(running, waits_for)
    except TimeoutError as exc:
        if not timer.expired():
            raise
        raise Problem(503, f"This took longer than {limit_s:g} seconds.", headers=_RETRY) from exc


def _limited(responder: Responder, limit_s: float) -> Responder:
    @wraps(responder)
    async def limited(req: Request, resp: Response, **params: Any) -> None:
        await within(responder(req, resp, **params), limit_s)

    return limited


@types.coroutine
def _rest(running: Coroutine[Any, Any, T], waits_for: Any) -> Generator[Any, Any, T]:
    """Go on with a coroutine that waits for something already."""
    while True:
        try:
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001  # whatever it is, it is the coroutine's
                waits_for = running.throw(exc)
            else:
                waits_for = running.send(None)
        except StopIteration as ended:
            found: T = ended.value
            return found
