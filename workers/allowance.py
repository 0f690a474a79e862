"""What the platforms' limits still give, shared by every worker on every machine through Redis.

One "next allowed time" per task and credential spaces the calls evenly, so that unused allowance never becomes a burst.
The clock is Redis's own. A credential's pause, its block (it was refused), and the units used of its day's quota stand
beside it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct
from redis import Redis

from db.pauses import Pause
from pipeline.platforms import Platform, Quota, midnight_after

NEXT_KEY = "rollcall:allowance:next:"
PAUSE_KEY = "rollcall:allowance:pause:"
BLOCK_KEY = "rollcall:allowance:block:"
QUOTA_KEY = "rollcall:allowance:quota:"

# KEYS next, pause, block and quota of each credential; ARGV space between two calls (s), requests, units a day (0: no
# quota), seconds until the quota is renewed, then for each credential the pause to set when its quota is spent.
# Returns seconds to wait as a string, and the credential that may be used, counted from 1: 0 with a wait of 0 says that
# all are paused. Of those that may be used, the one that rested longest is; a blocked one only where all are blocked,
# since what a person asks for tries it again.
_RESERVE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local space, requests, per_day = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local chosen, earliest, least_blocked = 0, 0, 0
for i = 1, #KEYS / 4 do
  local next_key, pause_key, block_key, quota_key = KEYS[4 * i - 3], KEYS[4 * i - 2], KEYS[4 * i - 1], KEYS[4 * i]
  if redis.call('EXISTS', pause_key) == 0 then
    if per_day > 0 and tonumber(redis.call('GET', quota_key) or '0') + requests > per_day then
      redis.call('SET', pause_key, ARGV[4 + i], 'EX', ARGV[4])
    else
      local allowed = tonumber(redis.call('GET', next_key) or '0')
      local blocked = redis.call('EXISTS', block_key)
      if chosen == 0 or blocked < least_blocked or (blocked == least_blocked and allowed < earliest) then
        chosen, earliest, least_blocked = i, allowed, blocked
      end
    end
  end
end
if chosen == 0 then return {'0', 0} end
if earliest > now then return {string.format('%.6f', earliest - now), 0} end
if per_day > 0 then
  redis.call('INCRBY', KEYS[4 * chosen], requests)
  redis.call('EXPIRE', KEYS[4 * chosen], ARGV[4])
end
redis.call('SET', KEYS[4 * chosen - 3], string.format('%.6f', now + space), 'EX', math.ceil(space) + 1)
return {'0', chosen}
"""

# KEYS next; ARGV seconds from now. Only ever later, never earlier.
_SLOW = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local later = now + tonumber(ARGV[1])
if later > tonumber(redis.call('GET', KEYS[1]) or '0') then
  redis.call('SET', KEYS[1], string.format('%.6f', later), 'EX', math.ceil(tonumber(ARGV[1])) + 1)
end
"""


class Slot(Struct, frozen=True):
    """An answer to `reserve`: the credential to call with now, or the seconds to wait, or neither when all are paused."""

    credential: str | None = None
    wait_s: float = 0.0


class SharedAllowance:
    """The one bucket of each task and credential, however many workers ask. Every method may raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reserve = redis.register_script(_RESERVE)
        self._slow = redis.register_script(_SLOW)

    def reserve(
        self, task: str, platform: Platform, credentials: Sequence[str], *, space_s: float, requests: int
    ) -> Slot:
        """Take the next slot of `task` if one of the credentials (their labels) has it.

        `space_s` is the time that this call keeps from the next one, `requests` what it takes of the day's quota.
        """
        now = datetime.now(UTC)
        quota = platform.quota or Quota(0, "UTC")
        renewed_at = midnight_after(now, quota.zone)
        reason = f"the day's quota of {quota.per_day:,} is spent"
        keys, spent = [], []
        for label in credentials:
            keys += [
                f"{NEXT_KEY}{task}:{label}",
                f"{PAUSE_KEY}{platform.name}:{label}",
                f"{BLOCK_KEY}{platform.name}:{label}",
                f"{QUOTA_KEY}{platform.name}:{label}:{renewed_at:%Y%m%dT%H}",
            ]
            spent.append(msgspec.json.encode(Pause(platform.name, label, renewed_at, reason, "quota")))
        seconds = max(1, int((renewed_at - now).total_seconds()))
        wait_s, chosen = self._reserve(keys=keys, args=[space_s, requests, quota.per_day, seconds, *spent])
        return Slot(credentials[chosen - 1] if chosen else None, float(wait_s))

    def slow(self, task: str, credential: str, *, for_s: float) -> None:
        """Let the next call of `task` wait at least this long: the platform's headers said so."""
        self._slow(keys=[f"{NEXT_KEY}{task}:{credential}"], args=[for_s])

    def pause(self, pause: Pause) -> None:
        """Let nobody call with this credential until the pause ends.

        A refused one is only left aside while another may be used.
        """
        left = int((pause.until - datetime.now(UTC)).total_seconds() * 1000)
        if left > 0:
            key = BLOCK_KEY if pause.result == "blocked" else PAUSE_KEY
            self._redis.set(f"{key}{pause.platform}:{pause.credential}", msgspec.json.encode(pause), px=left)

    def unblock(self, platform: str, credential: str) -> None:
        """Let a refused credential be used like the others again."""
        self._redis.delete(f"{BLOCK_KEY}{platform}:{credential}")

    def paused(self, platform: str, credential: str) -> Pause | None:
        """Return the credential's pause for a limit, or None."""
        raw = self._redis.get(f"{PAUSE_KEY}{platform}:{credential}")
        return None if raw is None else msgspec.json.decode(raw, type=Pause)
