"""What each CDN is still to hear of: one queue per CDN in Redis, each tag in it once, however often it was purged.

Tags come into it in the same step that makes them invalid for both of our own levels (`messages.Purger`), with that
purge's number; they leave it when the CDN has taken them (`pipeline.cdn_purges`).
"""

from collections.abc import Mapping
from typing import Any

from redis import Redis

from db.tags import EVERYTHING

# The CDNs that somebody speaks for, each with the second (Redis's clock) at which it last was so.
TARGETS_KEY = "rollcall:cdn:targets"
WAITING_KEY = "rollcall:cdn:waiting:"
# Nobody having spoken for a CDN for so long, nothing is left there that a purge of that time could end.
KEPT_S = 900
MOST_WAITING = 10_000

# A function for the script that raises tags: ARGV[first] and all behind it are to be told to every CDN. Too many are told
# as everything.
TELL_CDNS = f"""
local function tell_cdns(seq, first)
  local since = tonumber(redis.call('TIME')[1]) - {KEPT_S}
  for _, cdn in ipairs(redis.call('ZRANGEBYSCORE', '{TARGETS_KEY}', since, '+inf')) do
    local waiting = '{WAITING_KEY}' .. cdn
    if redis.call('ZCARD', waiting) + #ARGV - first >= {MOST_WAITING} then
      redis.call('DEL', waiting)
      redis.call('ZADD', waiting, seq, '{EVERYTHING}')
    else
      for i = first, #ARGV do redis.call('ZADD', waiting, seq, ARGV[i]) end
    end
    redis.call('EXPIRE', waiting, {2 * KEPT_S})
  end
end
"""
# What was purged again while it was being sent has another number by now, and stays.
_DONE = """
for i = 1, #ARGV, 2 do
  local number = redis.call('ZSCORE', KEYS[1], ARGV[i])
  if number and tonumber(number) == tonumber(ARGV[i + 1]) then redis.call('ZREM', KEYS[1], ARGV[i]) end
end
"""
# A CDN that nobody spoke for has missed purges: it is to forget everything.
_ANNOUNCE = """
local now = tonumber(redis.call('TIME')[1])
local known = redis.call('ZSCORE', KEYS[1], ARGV[1])
redis.call('ZADD', KEYS[1], now, ARGV[1])
if known and tonumber(known) >= now - ARGV[2] then return 0 end
redis.call('DEL', KEYS[2])
redis.call('ZADD', KEYS[2], 0, ARGV[3])
return 1
"""


class Waiting:
    """One CDN's queue. Every method may raise RedisError."""

    def __init__(self, redis: Redis, cdn: str) -> None:
        self._redis: Any = redis  # its types leave open whether answers are bytes
        self._cdn = cdn
        self._key = WAITING_KEY + cdn
        self._done = redis.register_script(_DONE)
        self._announce = redis.register_script(_ANNOUNCE)

    def announce(self) -> None:
        """Have purges put into the queue from now on, for as long as this is repeated."""
        self._announce(keys=[TARGETS_KEY, self._key], args=[self._cdn, KEPT_S, EVERYTHING])

    def all(self) -> Mapping[str, float]:
        """Return the tags that wait, the longest first, each with the number of its last purge."""
        return {tag.decode(): number for tag, number in self._redis.zrange(self._key, 0, -1, withscores=True)}

    def silent_s(self) -> float | None:
        """Return how long ago somebody last spoke for the CDN; None where nobody has."""
        spoken_at = self._redis.zscore(TARGETS_KEY, self._cdn)
        return None if spoken_at is None else max(0.0, self._redis.time()[0] - spoken_at)

    def done(self, sent: Mapping[str, float]) -> None:
        """Take out what was sent."""
        self._done(keys=[self._key], args=[part for pair in sent.items() for part in pair])
