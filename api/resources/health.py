"""GET /healthz and /readyz: for load balancers and people who look after the service."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import msgspec
from falcon.asgi import Request, Response
from kombu import Connection

from api.cache.shared import Shared
from api.cache.tags import Purges
from db import reads
from db.engine import DatabaseError, Engines, PoolTimeout
from pipeline.messages import broker_errors

PATIENCE_S = 2.0


class Alive:
    """Says that the process answers, and nothing more."""

    always_open = True

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = b'{"status":"ok"}'
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


class Ready:
    """Says what each part of the service can do. Only without its database can't it serve; the rest makes it slow."""

    always_open = True

    def __init__(self, engines: Engines, shared: Shared, purges: Purges, threads: Executor, broker_url: str) -> None:
        self._engines = engines
        self._shared = shared
        self._purges = purges
        self._threads = threads
        self._broker_url = broker_url
        self._away: tuple[type[Exception], ...] = (
            TimeoutError,
            DatabaseError,
            PoolTimeout,
            *broker_errors(self._broker_url),
        )

    async def on_get(self, req: Request, resp: Response) -> None:
        database, broker, cache = await asyncio.gather(
            self._answers(self._ask_database, self._threads),
            self._answers(self._ask_broker, None),
            self._shared.alive(),
        )
        states = {
            "status": "ready" if database else "not ready",
            "database": _word(database),
            "cache": _word(cache),
            "broker": _word(broker),
            "purge_listener": _word(self._purges.listening),
        }
        resp.status = 200 if database else 503
        resp.data = msgspec.json.encode(states)
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    async def _answers(self, ask: Callable[[], None], threads: Executor | None) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.run_in_executor(threads, ask), PATIENCE_S)
        except self._away:
            return False
        return True

    def _ask_database(self) -> None:
        with self._engines.reading() as conn:
            reads.alive(conn)

    def _ask_broker(self) -> None:
        with Connection(self._broker_url, connect_timeout=PATIENCE_S) as connection:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE_S)


def _word(well: bool) -> str:
    return "ok" if well else "down"
