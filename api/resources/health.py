"""GET /healthz and /readyz: for load balancers and people who look after the service."""

import asyncio
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec
from falcon.asgi import Request, Response
from kombu import Connection
from msgspec import Struct

from api.operations import Operation, Operations
from api.room import Room
from api.routes import Route
from db import reads
from db.engine import DatabaseError, PoolTimeout, reading
from pipeline.messages import broker_errors
from pipeline.redis_channel import line_options

PATIENCE_S = 2.0


class Liveness(Struct, frozen=True):
    """An answer at all is what it says."""

    status: Literal["ok"]


State = Literal["ok", "down"]


class Readiness(Struct, frozen=True, kw_only=True):
    """What each part of the service can do."""

    status: Literal["ready", "not ready"]
    database: State
    cache: State
    broker: State
    purge_listener: State


class Alive:
    """Says that the process answers, and nothing more."""

    operations = Operations(get=Operation(summary="Whether the process answers.", answer=Liveness, always_open=True))

    async def on_get(self, req: Request, resp: Response) -> None:
        resp.data = b'{"status":"ok"}'
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get


class Ready:
    """Says what each part of the service can do. Only without its database can't it serve; the rest makes it slow."""

    operations = Operations(
        get=Operation(
            summary="What each part of the service can do; 503 when it can't serve.",
            answer=Readiness,
            also=(503,),
            always_open=True,
        )
    )

    def __init__(self, room: Room) -> None:
        self._engine = room.engine
        self._shared = room.shared
        self._purges = room.purges
        self._broker_url = room.settings.broker
        self._away: tuple[type[Exception], ...] = (
            TimeoutError,
            DatabaseError,
            PoolTimeout,
            *broker_errors(self._broker_url),
        )

    async def on_get(self, req: Request, resp: Response) -> None:
        database, broker, cache = await asyncio.gather(
            self._answers(self._ask_database),
            self._answers(self._ask_broker),
            self._shared.alive(),
        )
        states = Readiness(
            status="ready" if database else "not ready",
            database=_word(database),
            cache=_word(cache),
            broker=_word(broker),
            purge_listener=_word(self._purges.listening),
        )
        resp.status = 200 if database else 503
        resp.data = msgspec.json.encode(states)
        resp.set_header("Cache-Control", "no-store")

    on_head = on_get

    async def _answers(self, ask: Callable[[], None]) -> bool:
        # Not in the threads of the reads: where those wait, hits are given out all the same.
        try:
            await asyncio.wait_for(asyncio.to_thread(ask), PATIENCE_S)
        except self._away:
            return False
        return True

    def _ask_database(self) -> None:
        with reading(self._engine) as conn:
            reads.alive(conn)

    def _ask_broker(self) -> None:
        options = line_options(self._broker_url)
        with Connection(self._broker_url, connect_timeout=PATIENCE_S, transport_options=options) as connection:
            connection.ensure_connection(max_retries=1, timeout=PATIENCE_S)


def _word(well: bool) -> State:
    return "ok" if well else "down"


def routes(room: Room) -> Iterator[Route]:
    yield "/healthz", Alive()
    yield "/readyz", Ready(room)
