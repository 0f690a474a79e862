"""The API's composition root: what is made once per process, and how it hangs together."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import falcon.asgi
from redis.asyncio import Redis

from api import problems
from api.access import Access
from api.cache import shared
from api.cache.answers import Answers
from api.cache.listener import Listener
from api.cache.memory import Memory
from api.cache.shared import Shared
from api.cache.tags import Purges
from api.cached import Cached
from api.dashboard.pages import AccountsPage
from api.middleware import ApiRequest, Keys, Origins, Requests
from api.resources.accounts import Accounts, OneAccount
from api.resources.health import Alive, Ready
from api.resources.history import AccountHistory
from api.resources.jobs import OneJob
from api.resources.refresh import Enqueue, Refresh
from api.resources.summary import Summary
from db.engine import Engine, Engines, make_engine
from pipeline import log, platforms
from pipeline.app import make_celery
from pipeline.enqueue import Enqueuer
from pipeline.settings import Settings, load_settings

App = falcon.asgi.App[Any, Any]

# A read that takes longer is ended by the database: its thread is worth more to others.
READ_TIMEOUT_S = 15.0


class Lifespan:
    """Starts what must not exist before gunicorn forks, and ends it with the process."""

    def __init__(self, listener: Listener, shared: Shared, threads: ThreadPoolExecutor, engines: Engines) -> None:
        self._listener = listener
        self._shared = shared
        self._threads = threads
        self._engines = engines

    async def process_startup(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self._listener.start()

    async def process_shutdown(self, scope: dict[str, Any], event: dict[str, Any]) -> None:
        self._listener.stop()
        await self._shared.close()
        self._threads.shutdown(cancel_futures=True)
        self._engines.dispose()


def create_app(settings: Settings, engines: Engines, redis: Redis, enqueue: Enqueue) -> App:
    """Return the ASGI app. It owns `engines` and `redis`: both end with its lifespan."""
    known = platforms.load()
    # No more reads at a time than there are connections: a flood waits in line instead of failing.
    most = min(settings.read_threads, settings.db_pool_size + settings.db_max_overflow)
    threads = ThreadPoolExecutor(most, thread_name_prefix="read")
    purges = Purges()
    memory = Memory(purges, entries=settings.cache_entries, kept_s=settings.cache_memory_s)
    shared = Shared(redis)
    cached = Cached(Answers(purges, memory, shared, threads), private=settings.api_require_key)
    listener = Listener(settings.broker, purges)
    middleware: list[Any] = [
        Lifespan(listener, shared, threads, engines),
        Requests(),
        Origins([origin.strip() for origin in settings.cors_origins.split(",") if origin.strip()]),
        Keys(Access(engines, threads, require_key=settings.api_require_key)),
    ]
    app: App = falcon.asgi.App(request_type=ApiRequest, middleware=middleware)
    problems.install(app)
    stale_after_s = settings.stale_after_s
    app.add_route("/", AccountsPage(cached, engines, known, stale_after_s=stale_after_s))
    app.add_route("/api/summary", Summary(cached, engines, known, stale_after_s=stale_after_s))
    app.add_route("/api/accounts", Accounts(cached, engines, known, stale_after_s=stale_after_s))
    app.add_route(
        "/api/accounts/{platform}/{handle:path}", OneAccount(cached, engines, known, stale_after_s=stale_after_s)
    )
    app.add_route(
        "/api/history/{platform}/{handle:path}", AccountHistory(cached, engines, known, stale_after_s=stale_after_s)
    )
    app.add_route("/api/jobs/{job_id}", OneJob(engines, threads))
    app.add_route("/api/refresh", Refresh(engines, threads, enqueue, known, settings))
    app.add_route("/healthz", Alive())
    app.add_route("/readyz", Ready(engines, shared, purges, threads, settings.broker))
    return app


def from_environment() -> App:
    """Return the app that the environment's settings describe; what gunicorn calls in each of its workers."""
    settings = load_settings()
    log.configure(settings, "api")
    primary = _engine(settings, settings.database_url.get_secret_value())
    replica = None
    if settings.enable_read_replica and settings.database_read_replica_url:
        replica = _engine(settings, settings.database_read_replica_url.get_secret_value())
    enqueue = Enqueuer(settings, primary, make_celery(settings))
    return create_app(
        settings, Engines(primary, replica), shared.connect(settings.redis_url.get_secret_value()), enqueue
    )


def _engine(settings: Settings, url: str) -> Engine:
    return make_engine(
        url,
        pool_size=settings.db_pool_size,
        max_overflow=settings.db_max_overflow,
        pool_timeout=settings.db_pool_timeout,
        pool_recycle=settings.db_pool_recycle,
        application_name="rollcall-api",
        statement_timeout_s=READ_TIMEOUT_S,
    )
