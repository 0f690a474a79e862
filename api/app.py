"""The API's composition root: what is made once per process, and how it hangs together."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any

import falcon.asgi
import redis as sync_redis
from redis.asyncio import Redis

from api import deadline, limiting, problems, routes
from api.access import Access
from api.cache import shared as second_level
from api.cache.answers import Answers
from api.cache.listener import Listener
from api.cache.memory import Memory
from api.cache.popular import Asked, Popular
from api.cache.reader import Reader
from api.cache.shared import Shared
from api.cache.stats import Stats, keep_snapshots
from api.cache.tags import Purges
from api.cache.threads import Threads
from api.cache.warm import Warmer
from api.cached import Cached
from api.cdn import Cdn, Unmarked
from api.client import Proxies
from api.closing import ClosingLines
from api.counting import Counting
from api.dashboard import look
from api.exports import Exports
from api.front import Front, Ready
from api.front import send as send_ready
from api.limiting import Allowance
from api.middleware import Callers, Origins, Queries, Requests, Safety
from api.profiling import keep_reports
from api.request import MET, WARMING, ApiRequest
from api.room import Enqueue, Room
from api.sessions import Cookies
from api.streams import Streams
from db.engine import Engine, make_engine
from db.profiler import Profile
from pipeline import log, platforms, tracing
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.limits import Rate
from pipeline.messages import Purger
from pipeline.outbox import Outbox
from pipeline.settings import Settings, load_settings

# How long Redis may take to hear of a purge: what it is about is committed by then.
PURGE_S = 2.0


class App(falcon.asgi.App[Any, Any]):
    """Begins with a request as soon as its headers are there.

    Falcon would wait for the first bytes of a body before it looks at anything. Who has no key, or says that more is to
    come than may, needn't send any; and they may never come.
    `front` answers hits before Falcon does anything; a server that knows of it may ask it by itself.
    `streams` never end soon by themselves: a server that is told to stop closes them.
    """

    front: Front | None = None
    streams: Streams | None = None

    def __call__(self, scope: Any, receive: Any, send: Any) -> Any:  # type: ignore[override]  # as Falcon's own
        is_asked = self.front and scope["type"] == "http" and WARMING not in scope
        return (self._ask_front if is_asked else self.behind)(scope, receive, send)

    def behind(self, scope: Any, receive: Any, send: Any) -> Any:
        """Answer what the front can't; for a server that asks that by itself."""
        if tracing.is_on() and scope["type"] == "http" and WARMING not in scope:
            return self._traced(scope, receive, send)
        return super().__call__(scope, _Begun(receive) if scope["type"] == "http" else receive, send)

    async def _traced(self, scope: Any, receive: Any, send: Any) -> None:
        headers = scope["headers"] = [(name, value) for name, value in scope["headers"]]  # they may be read once
        given = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        # The rest is said where it is known, by the middleware that closes a request.
        with tracing.continued(given), tracing.span(scope["method"], "server"):
            await super().__call__(scope, _Begun(receive), send)

    async def _ask_front(self, scope: Any, receive: Any, send: Any) -> None:
        assert self.front
        began = time.perf_counter()
        peer = (scope.get("client") or ("127.0.0.1",))[0]
        headers = scope["headers"] = [(name, value) for name, value in scope["headers"]]  # they may be read once
        question = self.front.understand(scope["method"], scope["path"], scope["query_string"], headers, peer)
        found = question and await self.front.answer(question, peer, began)
        if isinstance(found, Ready):
            await send_ready(found, send)
        else:
            await self.behind({**scope, MET: found} if found else scope, receive, send)


class _Begun:
    """A `receive` whose first event is there already, and empty."""

    __slots__ = ("_is_begun", "_receive")

    def __init__(self, receive: Any) -> None:
        self._receive = receive
        self._is_begun = False

    async def __call__(self) -> Any:
        if self._is_begun:
            return await self._receive()
        self._is_begun = True
        return {"type": "http.request", "body": b"", "more_body": True}


class Lifespan:
    """Starts what must not exist before gunicorn forks, and ends it with the process."""

    def __init__(
        self,
        listener: Listener,
        answers: Answers,
        shared: Shared,
        threads: Threads,
        exports: Exports,
        engines: Sequence[Engine],
        background: Sequence[Callable[[], Coroutine[Any, Any, None]]],
        purging: sync_redis.Redis,
        counting: Counting,
        lines: ClosingLines,
    ) -> None:
        self._listener = listener
        self._answers = answers
        self._shared = shared
        self._threads = threads
        self._exports = exports
        self._engines = engines
        self._background = background
        self._purging = purging
        self._counting = counting
        self._lines = lines
        self._tasks: list[asyncio.Task[None]] = []

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self._listener.start()
        self._tasks = [asyncio.create_task(work()) for work in self._background]

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        running = set(self._tasks)
        while running:
            # Until they end: redis-py takes a cancellation for a timeout of its own where it is just connecting.
            for task in running:
                task.cancel()
            _, running = await asyncio.wait(running, timeout=0.1)
        self._lines.flush()
        await self._counting.close()
        self._listener.stop()
        await self._answers.close()
        await self._shared.close()
        self._exports.close()
        self._threads.shutdown(cancel_futures=True)
        self._purging.close()
        await asyncio.to_thread(tracing.close)
        for engine in self._engines:
            engine.dispose()


def create_app(
    settings: Settings, engine: Engine, redis: Redis, enqueue: Enqueue, *, replica: Engine | None = None
) -> App:
    """Return the ASGI app. It owns the engines and `redis`: they end with its lifespan.

    `replica` takes the reads of answers while it follows `engine`, the primary.
    """
    known = platforms.load()
    # No more reads at a time than there are connections: a flood waits in line instead of failing.
    most = min(settings.read_threads, settings.db_pool_size + settings.db_max_overflow)
    threads = Threads(most)
    purges = Purges()
    stats = Stats()
    popular = Popular()
    warmer = Warmer(popular, redis, threads)
    memory = Memory(purges, entries=settings.cache_entries, kept_s=settings.cache_memory_s)
    shared = Shared(redis)
    reader = Reader(engine, replica, purges, max_lag_s=settings.replica_max_lag_s)
    answers = Answers(purges, memory, shared, reader, threads)
    cdn = Cdn(purges) if settings.has_cdn else None
    cached = Cached(
        answers, stats, popular, private=settings.api_require_key, cdn=cdn, pages=look.version(settings.static_url)
    )

    def heard() -> None:
        stats.purges += 1
        warmer.purged()

    listener = Listener(settings.broker, purges, heard)
    exports = Exports(settings)
    engines = [engine, exports.engine] if replica is None else [engine, replica, exports.engine]
    of_addresses = _allowance("address", settings.api_rate_limit)
    of_keys = _allowance("key", settings.api_rate_limit_key)
    background: list[Callable[[], Coroutine[Any, Any, None]]] = [
        lambda: reader.follow(shared),
        lambda: keep_snapshots(stats, redis),
        lambda: warmer.work(partial(_ask, app)),
        lambda: limiting.keep_settling([one for one in (of_addresses, of_keys) if one], redis),
    ]
    if settings.db_profile:
        profile = Profile(slow_ms=settings.db_slow_ms)
        for one in engines:
            profile.watch(one)
        background.append(lambda: keep_reports(profile, redis))
    access = Access(
        engine, threads, purges, require_key=settings.api_require_key, know_all=bool(settings.api_rate_limit_key)
    )
    proxies = Proxies(settings.proxies)
    purging = sync_redis.Redis.from_url(
        settings.redis_url.get_secret_value(), socket_timeout=PURGE_S, socket_connect_timeout=PURGE_S
    )
    celery = make_celery(settings)
    purger = Purger(celery, purging)

    def purge(tags: Iterable[str]) -> None:
        changed = frozenset(tags)
        purger.purge(changed)
        purges.purge(changed)  # whoever changed it mustn't see the old answer until the message is back here

    counting = Counting(stats, threads, engines, Outbox(celery, engine, "api"))
    background.append(counting.work)
    cookies = Cookies(proxies, lasts_s=settings.sign_in_s)
    callers = Callers(access, proxies, cookies, of_addresses=of_addresses, of_keys=of_keys)
    lines = ClosingLines(settings)
    middleware: list[Any] = [
        counting,
        Lifespan(listener, answers, shared, threads, exports, engines, background, purging, counting, lines),
        Safety(proxies),
        callers,
        Requests(lines),
        Origins(settings.origins),
        Queries(),
    ]
    front = None
    if settings.has_cdn:
        # It gives most hits by itself, and for how long it may is new with each answer: they all go the long way.
        middleware.append(Unmarked())
    else:
        front = Front(answers, cached, callers, counting, lines, proxies, timeout_s=settings.api_timeout_s)
        middleware.insert(0, front)
    app = App(request_type=ApiRequest, middleware=middleware)
    app.front = front
    app.streams = streams = Streams(purges, most=settings.live_streams, lifetime_s=settings.live_stream_s)
    room = Room(
        settings=settings,
        platforms=known,
        cached=cached,
        engine=engine,
        threads=threads,
        enqueue=enqueue,
        shared=shared,
        purges=purges,
        purge=purge,
        app=app,
        routes=[],
        redis=redis,
        exports=exports,
        access=access,
        cookies=cookies,
        streams=streams,
    )
    problems.install(app, look.look(room).problem)
    room.routes.extend(routes.every(room))
    for path, resource in room.routes:
        deadline.limit(resource, settings.api_timeout_s)
        app.add_route(path, resource)
    return app


async def _ask(app: App, asked: Asked) -> None:
    """Make a request to ourselves; its answer is left in the caches."""
    headers = [(b"accept", asked.accept), (b"accept-encoding", asked.accept_encoding)]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.1"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": asked.path,
        "query_string": asked.query,
        "headers": [(name, value.encode("latin-1")) for name, value in headers if value is not None],
        WARMING: True,
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(event: dict[str, Any]) -> None:
        pass

    await app(scope, receive, send)


def _allowance(name: str, rate: str) -> Allowance | None:
    return Allowance(name, Rate.parse(rate)) if rate else None


def from_environment() -> App:
    """Return the app that the environment's settings describe; what gunicorn calls in each of its workers."""
    settings = load_settings()
    log.configure(settings, "api")
    tracing.configure(settings, "api")
    primary = _engine(settings, settings.database_url.get_secret_value())
    replica = None
    if settings.enable_read_replica and settings.database_read_replica_url is not None:
        replica = _engine(settings, settings.database_read_replica_url.get_secret_value())
    enqueue = Enqueuer(settings, primary, make_celery(settings))
    redis = second_level.connect(settings.redis_url.get_secret_value())
    return create_app(settings, primary, redis, enqueue, replica=replica)


def _engine(settings: Settings, url: str) -> Engine:
    # A connection beyond the pool's size ends with its read: to open the next takes longer than to read a page.
    most = settings.db_pool_size + settings.db_max_overflow
    kept = max(settings.db_pool_size, min(settings.read_threads, most))
    return make_engine(
        url,
        pool_size=kept,
        max_overflow=most - kept,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        application_name="rollcall api",
        statement_timeout_s=settings.db_read_timeout_s,
        idle_timeout_s=settings.db_idle_timeout_s,
    )
