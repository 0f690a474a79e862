"""The second level: answers in Redis, for every API process. It may be gone at any time.

Its calls go through redis.asyncio and not through the threads of the database reads: a hit must not wait in line
behind a slow database.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Literal

import msgspec
import structlog
import zstandard
from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from api.cache import scripts
from api.cache.entries import Answer, Key, Stamps, Variant
from api.cache.link import Part, Script, Scripts
from api.cache.tags import STALE_S
from db.tags import EVERYTHING
from pipeline.messages import RAISE, RECENT_KEY, SEQUENCE_KEY, TAG_KEY, raise_arguments

log = structlog.get_logger()

# The number is that of the form in which answers are kept: those of another one are never met.
VALUE_KEY = "rollcall:cache:value:2:"
FLIGHT_KEY = "rollcall:cache:flight:"
TIMEOUT_S = 0.25
# How long Redis is left alone after a failure: a dead one costs one request in that time its timeout, not each.
PAUSE_S = 1.0
# A process that reads for all others and dies is waited for so long; a read may take longer, and is then made twice.
FLIGHT_S = 5.0
# What is to be kept waits for others that long: by itself, each costs as much as a tenth of the read.
_TOGETHER_S = 0.005
_MOST_TOGETHER = 16
_MOST_TOGETHER_BYTES = 1 << 20
# Longer ones are kept compressed, as quickly as can be: Redis, its file included, takes a quarter less CPU for a page of 50.
_WORTH_BYTES = 4_000
_QUICKEST = -1
# Beyond so many that wait for Redis, whoever brings another waits, too.
_MOST_LEAVING = 64

# When the reading of a key for all processes is taken on: never, when there is nothing that may be given out, or when
# what there is doesn't show every commit.
Take = Literal["never", "missing", "stale"]

_LOOK, _KEEP, _ADD, _LEAVE = map(Script, (scripts.LOOK, scripts.KEEP, scripts.ADD, scripts.LEAVE))
_RAISE = Script(RAISE)

_encoder = msgspec.msgpack.Encoder()
_answers = msgspec.msgpack.Decoder(Answer)
_variants = msgspec.msgpack.Decoder(Variant)


class Found(Struct, frozen=True):
    """What Redis knew: the sequence to stamp a new answer with (None: it can't be asked), and maybe an answer.

    The answer was read `age_s` ago, and for `unseen_s` it hasn't shown a commit (None: it shows all). `variant` is in
    the encoding asked for, or in another. With `token` the caller reads for all processes, until it keeps or gives up.
    """

    stamp: int | None = None
    answer: Answer | None = None
    variant: Variant | None = None
    read_at_stamp: int = 0
    age_s: float = 0.0
    unseen_s: float | None = None
    token: str | None = None


class _Leaving(Struct, frozen=True):
    """An answer on its way into Redis."""

    key: Key
    answer: Answer
    coding: str
    packed: bytes
    stamps: Stamps
    token: str | None

    def arguments(self) -> tuple[Part, ...]:
        """Return what the script KEEP wants to know of it."""
        return (
            self.stamps.shared or 0,
            round((time.monotonic() - self.stamps.at) * 1000),
            "\n".join(self.answer.tags),
            _encoder.encode(self.answer),
            self.answer.content,
            self.coding,
            self.packed,
            round(self.answer.ttl_s),
            self.token or "",
        )


class Shared:
    """Looks up and keeps answers in Redis; without Redis it finds nothing and keeps nothing."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._scripts = Scripts(redis, timeout_s=TIMEOUT_S)
        self._leaving: deque[_Leaving] = deque()
        self._keeping: asyncio.Task[None] | None = None
        self._clock = clock
        self._paused_until = 0.0
        self._was_gone = False

    @property
    def is_gone(self) -> bool:
        """Tell whether Redis couldn't be reached when it was asked last."""
        return self._was_gone

    async def look(self, key: Key, coding: str, *, take: Take = "never") -> Found:
        """Return the answer if it may be given out, and the stamp for a new one. Ask before the database is read."""
        token = "" if take == "never" else f"{random.getrandbits(128):032x}"
        args = (TAG_KEY, RECENT_KEY, coding, round(STALE_S * 1000), take, token, round(FLIGHT_S * 1000))
        found = await self._run(_LOOK, key, (*args, EVERYTHING))
        if found is None:
            return Found()
        stamp, has_taken, *kept = found
        nothing = Found(int(stamp), token=token if has_taken else None)
        try:
            return nothing if not kept else _found(nothing, key, *kept)
        except (msgspec.DecodeError, zstandard.ZstdError):  # kept by another version
            return nothing

    async def keep(
        self, key: Key, answer: Answer, coding: str, packed: bytes, stamps: Stamps, token: str | None
    ) -> None:
        """Have an answer kept for every process, `packed` in one coding, which lets those that wait for it have it.

        It happens a little later, together with others: whoever asked here doesn't wait for it.
        """
        if stamps.shared is None:
            return
        self._leaving.append(_Leaving(key, answer, coding, packed, stamps, token))
        if self._keeping is None:
            self._keeping = asyncio.create_task(self._keep_all())
        if len(self._leaving) > _MOST_LEAVING:
            await asyncio.shield(self._keeping)

    async def _keep_all(self) -> None:
        try:
            await asyncio.sleep(_TOGETHER_S)
            while self._leaving:
                some: list[_Leaving] = []
                size_bytes = 0
                while self._leaving and len(some) < _MOST_TOGETHER and size_bytes < _MOST_TOGETHER_BYTES:
                    some.append(self._leaving.popleft())
                    size_bytes += len(some[-1].packed)
                keys = [name for one in some for name in (VALUE_KEY + one.key.digest, FLIGHT_KEY + one.key.digest)]
                args = [arg for one in some for arg in one.arguments()]
                await self._ask(partial(self._scripts.run, _KEEP, [SEQUENCE_KEY, *keys], args))
        finally:
            self._keeping = None

    async def add(self, key: Key, variant: Variant, content: str) -> None:
        """Keep a further encoding beside those of an answer, if that is still the one with this content."""
        await self._run(_ADD, key, [content, variant.coding, packed(variant)])

    async def leave(self, key: Key, token: str) -> None:
        """Let another process read: this one couldn't."""
        await self._run(_LEAVE, key, [token])

    async def sequence(self) -> int | None:
        """Return how many purges were sent so far; None when Redis can't be asked."""
        found = await self._ask(lambda: self._redis.mget(SEQUENCE_KEY))
        return None if found is None else int(found[0] or 0)

    async def alive(self) -> bool:
        """Ask Redis for nothing, whether it's being left alone or not."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        if self._keeping is not None:
            await self._keeping
        await self._scripts.close()
        with suppress(RedisError, OSError):  # one that is slow to part needn't fail what ends after it
            await self._redis.aclose()

    async def _run(self, script: Script, key: Key, args: Sequence[Part]) -> Any:
        keys = [VALUE_KEY + key.digest, FLIGHT_KEY + key.digest, SEQUENCE_KEY]
        return await self._ask(lambda: self._scripts.run(script, keys, args))

    async def _ask(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """Return the answer to a command; None when Redis is gone or being left alone."""
        if self._clock() < self._paused_until:
            return None
        try:
            if self._was_gone:
                # Purges may have been lost meanwhile: nothing that it holds from before is to be trusted.
                await self._scripts.run(_RAISE, [SEQUENCE_KEY], raise_arguments({EVERYTHING}))
                self._was_gone = False
            return await command()
        except (RedisError, OSError) as exc:
            self._paused_until = self._clock() + PAUSE_S
            self._was_gone |= isinstance(exc, RedisConnectionError)  # and not only slow
            log.warning("cache_unreachable", error=type(exc).__name__)
            return None


def packed(variant: Variant) -> bytes:
    """Return an answer's bytes as they are kept. A thousand rows take most of a millisecond."""
    whole = _encoder.encode(variant)
    is_worth_it = variant.coding == "identity" and len(whole) > _WORTH_BYTES
    return zstandard.compress(whole, _QUICKEST) if is_worth_it else whole


def _unpacked(kept: bytes) -> Variant:
    # A compressed one begins as no record does.
    return _variants.decode(zstandard.decompress(kept) if kept.startswith(zstandard.FRAME_HEADER) else kept)


def _found(
    nothing: Found, key: Key, stamp: bytes, age_ms: int, unseen_ms: int, answer: bytes, variant: bytes
) -> Found:
    what = _answers.decode(answer)
    if what.digest != key.digest:
        return nothing
    return Found(
        nothing.stamp,
        what,
        _unpacked(variant),
        int(stamp),
        age_ms / 1000,
        None if unseen_ms < 0 else unseen_ms / 1000,
        nothing.token,
    )


def connect(url: str) -> Redis:
    """Return a client that gives up soon; it connects on first use, in the loop that uses it."""
    # A connection that Redis closed while it lay idle is replaced at once; a slow answer isn't asked for twice.
    again = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=again)
