"""What the platforms' limits still give, shared by every worker on every machine through Redis.

One "next allowed time" per task name spaces the calls evenly, so that unused allowance never becomes a burst. The
clock is Redis's own. A pause of a platform, and the units used of its day's quota, stand beside it.
"""

from datetime import UTC, datetime

import msgspec
from redis import Redis

from db.claims import Pause
from pipeline.platforms import Platform, Quota, midnight_after

NEXT_KEY = "rollcall:allowance:next:"
PAUSE_KEY = "rollcall:allowance:pause:"
QUOTA_KEY = "rollcall:allowance:quota:"
PAUSED = -1.0

# KEYS next, pause, quota; ARGV space between two calls (s), requests, units a day (0: no quota), seconds until the
# quota is renewed, the pause to set when it is spent. Returns seconds to wait as a string, 0: go, -1: paused.
_RESERVE = """
if redis.call('EXISTS', KEYS[2]) == 1 then return '-1' end
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local allowed = tonumber(redis.call('GET', KEYS[1]) or '0')
if allowed > now then return tostring(allowed - now) end
local per_day = tonumber(ARGV[3])
if per_day > 0 then
  if tonumber(redis.call('GET', KEYS[3]) or '0') + tonumber(ARGV[2]) > per_day then
    redis.call('SET', KEYS[2], ARGV[5], 'EX', ARGV[4])
    return '-1'
  end
  redis.call('INCRBY', KEYS[3], ARGV[2])
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
local space = tonumber(ARGV[1])
redis.call('SET', KEYS[1], string.format('%.6f', now + space), 'EX', math.ceil(space) + 1)
return '0'
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


class SharedAllowance:
    """The one bucket of each task name, however many workers ask. Every method may raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._reserve = redis.register_script(_RESERVE)
        self._slow = redis.register_script(_SLOW)

    def reserve(self, task: str, platform: Platform, *, space_s: float, requests: int) -> float:
        """Take the next slot of `task` if it has come: return 0; else the seconds until it comes, or PAUSED.

        `space_s` is the time that this call keeps from the next one, `requests` what it takes of the day's quota.
        """
        now = datetime.now(UTC)
        quota = platform.quota or Quota(0, "UTC")
        renewed_at = midnight_after(now, quota.zone)
        spent = Pause(platform.name, renewed_at, f"the day's quota of {quota.per_day:,} is spent", "quota")
        keys = [NEXT_KEY + task, PAUSE_KEY + platform.name, f"{QUOTA_KEY}{platform.name}:{renewed_at:%Y%m%dT%H}"]
        seconds = max(1, int((renewed_at - now).total_seconds()))
        return float(
            self._reserve(keys=keys, args=[space_s, requests, quota.per_day, seconds, msgspec.json.encode(spent)])
        )

    def slow(self, task: str, *, for_s: float) -> None:
        """Let the next call of `task` wait at least this long: the platform's headers said so."""
        self._slow(keys=[NEXT_KEY + task], args=[for_s])

    def pause(self, pause: Pause) -> None:
        """Let nobody call the platform until the pause ends."""
        left = int((pause.until - datetime.now(UTC)).total_seconds() * 1000)
        if left > 0:
            self._redis.set(PAUSE_KEY + pause.platform, msgspec.json.encode(pause), px=left)

    def paused(self, platform: str) -> Pause | None:
        """Return the platform's pause, or None."""
        raw = self._redis.get(PAUSE_KEY + platform)
        return None if raw is None else msgspec.json.decode(raw, type=Pause)
