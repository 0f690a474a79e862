"""What resources and pages are made of: one of each per process, made in `api.app`."""

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import cached_property
from typing import Any, Protocol

from msgspec import Struct
from redis.asyncio import Redis

from api.access import Access
from api.cache.shared import Shared
from api.cache.tags import Purges
from api.cached import Cached
from api.exports import Exports
from api.sessions import Cookies
from api.streams import Streams
from db.engine import Engine
from db.standing import StaleAfter
from pipeline.enqueue import Requested
from pipeline.estimate import Alike
from pipeline.platforms import Platform
from pipeline.settings import Settings


class Enqueue(Protocol):
    """What puts accounts on the user-requested lane (`pipeline.enqueue.Enqueuer`)."""

    def request(self, account_keys: Sequence[int], *, requested_by: str) -> Requested: ...

    def request_all(self, accounts: Mapping[Alike, Sequence[int]], *, requested_by: str) -> Iterator[Requested]: ...


Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class Room(Struct, frozen=True, kw_only=True, eq=False, dict=True):
    """The parts of one process that its resources share. `threads` is where everything that blocks is done.

    `app` is the app itself, for requests within a request. `purge` tells every process, this one before it returns, that a
    commit changed what these tags stand for; it blocks.
    `routes` are all addresses with their resources, once they are made: what tells of them looks when it is asked.
    """

    settings: Settings
    platforms: Mapping[str, Platform]
    cached: Cached
    engine: Engine
    threads: Executor
    enqueue: Enqueue
    shared: Shared
    purges: Purges
    purge: Callable[[Iterable[str]], None]
    app: Asgi
    routes: list[tuple[str, object]]
    redis: Redis
    exports: Exports
    access: Access
    cookies: Cookies
    streams: Streams

    @cached_property  # a look at the setting of each platform
    def stale_after(self) -> StaleAfter:
        return self.settings.stale_after
