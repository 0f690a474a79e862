"""Scripts in Redis over one connection, any number of them on their way at once.

redis-py takes a connection out of its pool for each command, waits for the answer with timers of its own, and packs in
Python: as long as PostgreSQL takes to answer a page of a list. Here what is said in one turn of the loop goes out
together, and the answers, which come in order, are handed to those that wait.
"""

import asyncio
import hashlib
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

_READ_BYTES = 1 << 16
_GRACE_S = 0.01

Part = str | bytes | int


class Script:
    """A script with the digest that Redis knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs scripts on the connection of a client, which is made when it's needed, and made anew."""

    def __init__(self, redis: Redis, *, timeout_s: float) -> None:
        self._redis = redis
        self._timeout_s = timeout_s
        self._line: _Line | None = None
        self._connecting: asyncio.Task[_Line] | None = None

    async def run(self, script: Script, keys: Sequence[str], args: Sequence[Part]) -> Any:
        """Return what a script returns. Raises RedisError or OSError; it may have run all the same."""
        what = (len(keys), *keys, *args)
        try:
            return await self._surely("EVALSHA", script.digest, *what)
        except NoScriptError:
            return await self._surely("EVAL", script.text, *what)

    async def close(self) -> None:
        """End the connection: whoever waits for an answer is told so."""
        if self._connecting is not None:
            await asyncio.wait([self._connecting])
        if self._line is not None:
            self._line.cut(RedisConnectionError("closed"))

    async def _surely(self, *command: Part) -> Any:
        try:
            return await self._say(*command)
        except RedisConnectionError:  # one that Redis closed while it lay idle is replaced at once
            return await self._say(*command)

    async def _say(self, *command: Part) -> Any:
        line = self._line
        if line is None or line.is_cut:
            if self._connecting is None:
                self._connecting = asyncio.create_task(self._connect())
                self._connecting.add_done_callback(_seen)
            # Whoever comes meanwhile waits for the same try; who goes away doesn't end it for the others.
            line = await asyncio.shield(self._connecting)
        return await line.say(command)

    async def _connect(self) -> "_Line":
        try:
            connection: AbstractConnection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
            await connection.connect()  # type: ignore[no-untyped-call]
            self._line = _Line(connection, self._timeout_s)
            return self._line
        finally:
            self._connecting = None


class _Line:
    """One connection, made by redis-py, which then leaves its streams to us.

    Where one answer doesn't come in time, none after it can come: it is cut, and all who wait are told.
    """

    def __init__(self, connection: AbstractConnection, timeout_s: float) -> None:
        self._connection = connection
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._unsent: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Any], float]] = deque()
        self._reader = hiredis.Reader(replyError=_error)
        self._listening = asyncio.create_task(self._listen())
        self._watch: asyncio.TimerHandle | None = None
        self._overdue: asyncio.Future[Any] | None = None
        self.is_cut = False

    def say(self, command: tuple[Any, ...]) -> asyncio.Future[Any]:
        """Send a command with all others of this turn of the loop; the answer may be a RedisError, raised."""
        if self.is_cut:
            raise RedisConnectionError("closed")
        if not self._unsent:
            self._loop.call_soon(self._send)
        self._unsent.append(hiredis.pack_command(command))
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append((answer, time.monotonic()))
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout_s, self._look_at_the_clock)
        return answer

    def cut(self, why: RedisError) -> None:
        """End it, and tell all who wait why."""
        if self.is_cut:
            return
        self.is_cut = True
        self._listening.cancel()
        if self._watch is not None:
            self._watch.cancel()
        self._connection._close()  # type: ignore[no-untyped-call]
        for waiting, _ in self._waiting:
            if not waiting.done():
                waiting.set_exception(why)
        self._waiting.clear()

    def _send(self) -> None:
        unsent, self._unsent = self._unsent, []
        if self._connection._writer is not None:  # it isn't cut
            self._connection._writer.write(b"".join(unsent))

    async def _listen(self) -> None:
        stream = self._connection._reader
        assert stream is not None
        try:
            while data := await stream.read(_READ_BYTES):
                self._reader.feed(data)
                while (answer := self._reader.gets()) is not False:
                    if not isinstance(answer, hiredis.PushNotification):
                        self._give(answer)
        except (OSError, hiredis.HiredisError) as exc:
            self.cut(RedisConnectionError(str(exc)))
        else:
            self.cut(RedisConnectionError("Redis has closed the connection"))

    def _give(self, answer: Any) -> None:
        waiting, _ = self._waiting.popleft()
        if waiting.done():  # whoever asked has gone away
            return
        if isinstance(answer, RedisError):
            waiting.set_exception(answer)
        else:
            waiting.set_result(answer)

    def _look_at_the_clock(self) -> None:
        self._watch = None
        if not self._waiting:
            return
        left_s = self._waiting[0][1] + self._timeout_s - time.monotonic()
        if left_s <= 0 and self._overdue is self._waiting[0][0]:
            self.cut(RedisTimeoutError("no answer in time"))
            return
        if left_s <= 0:  # what came while the loop stood still is read first
            self._overdue, left_s = self._waiting[0][0], _GRACE_S
        self._watch = self._loop.call_later(left_s, self._look_at_the_clock)


def _error(text: str) -> RedisError:
    return NoScriptError(text) if text.startswith("NOSCRIPT") else ResponseError(text)


def _seen(connecting: "asyncio.Task[_Line]") -> None:
    """Take note of a failure that nobody is left to hear of."""
    if not connecting.cancelled():
        connecting.exception()
