"""The second level: answers in Redis, for every API process. It may be gone at any time.

Its calls go through redis.asyncio and not through the threads of the database reads: a hit must not wait in line
behind a slow database.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec
import structlog
from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.commands.core import AsyncScript
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from api.cache.entries import Answer, Key
from pipeline.messages import SEQUENCE_KEY, TAG_KEY

log = structlog.get_logger()

VALUE_KEY = "rollcall:cache:value:"
TIMEOUT_S = 0.25
# How long Redis is left alone after a failure: a dead one costs one request in that time its timeout, not each.
PAUSE_S = 1.0

# Returns the sequence now and, if it still holds, the answer: none of its tags purged after its stamp.
_LOOK = """
local seq = redis.call('GET', KEYS[2]) or '0'
local kept = redis.call('HMGET', KEYS[1], 'stamp', 'tags', 'answer')
if not kept[1] then return {seq, false} end
for tag in string.gmatch(kept[2], '[^\\n]+') do
  local purged = redis.call('GET', ARGV[1] .. tag)
  if purged and tonumber(purged) > tonumber(kept[1]) then return {seq, false} end
end
return {seq, kept[3]}
"""
# A sequence below the stamp means that Redis has lost its memory since: the stamp says nothing about its purges.
_KEEP = """
if tonumber(redis.call('GET', KEYS[2]) or '0') < tonumber(ARGV[1]) then return 0 end
redis.call('HSET', KEYS[1], 'stamp', ARGV[1], 'tags', ARGV[2], 'answer', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Answer)


class Found(Struct, frozen=True):
    """What Redis knew: the sequence to stamp a new answer with (None: it can't be asked), and maybe the answer."""

    stamp: int | None = None
    answer: Answer | None = None


class Shared:
    """Looks up and keeps answers in Redis; without Redis it finds nothing and keeps nothing."""

    def __init__(self, redis: Redis, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._look = redis.register_script(_LOOK)
        self._keep = redis.register_script(_KEEP)
        self._redis = redis
        self._clock = clock
        self._paused_until = 0.0

    async def look(self, key: Key) -> Found:
        """Return the answer if it still holds, and the stamp for a new one. Ask before the database is read."""
        found = await self._ask(self._look, key, [TAG_KEY])
        if found is None:
            return Found()
        stamp, packed = int(found[0]), found[1]
        try:
            answer = _decoder.decode(packed) if packed else None
        except msgspec.DecodeError:  # kept by another version
            answer = None
        return Found(stamp, answer if answer and answer.digest == key.digest else None)

    async def keep(self, key: Key, answer: Answer, stamp: int, ttl_s: int) -> None:
        """Keep an answer for every process; `stamp` came from `look`."""
        await self._ask(self._keep, key, [stamp, "\n".join(answer.tags), _encoder.encode(answer), ttl_s])

    async def alive(self) -> bool:
        """Ask Redis for nothing, whether it's being left alone or not."""
        try:
            return bool(await self._redis.ping())
        except (RedisError, OSError):
            return False

    async def close(self) -> None:
        await self._redis.aclose()

    async def _ask(self, script: AsyncScript, key: Key, args: list[Any]) -> Any:
        """Return a script's answer; None when Redis is gone or being left alone."""
        if self._clock() < self._paused_until:
            return None
        try:
            return await script(keys=[VALUE_KEY + key.digest, SEQUENCE_KEY], args=args)
        except (RedisError, OSError) as exc:
            self._paused_until = self._clock() + PAUSE_S
            log.warning("cache_unreachable", error=type(exc).__name__)
            return None


def connect(url: str) -> Redis:
    """Return a client that gives up soon; it connects on first use, in the loop that uses it."""
    # A connection that Redis closed while it lay idle is replaced at once; a slow answer isn't asked for twice.
    again = Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,))
    return Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, retry=again)
