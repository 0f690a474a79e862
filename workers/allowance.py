"""What the platforms' limits still give, shared by every worker on every machine through Redis.

One "next allowed time" per task and credential spaces the calls evenly, so that unused allowance never becomes a burst.
A slot is given a little before its time, so that a worker can take its job and connect meanwhile; a call that leaves
late pushes the next one (`workers.turn`). The clock is Redis's own. A credential's pause, its block (it was refused),
and the units used of its day's quota stand beside it, and the rates that were set while running (`pipeline.slots`).
"""

import math
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from msgspec import Struct, structs
from redis import Redis

from db.pauses import Pause
from pipeline.platforms import Platform, Quota, midnight_after
from pipeline.slots import RATES_KEY, SINCE_KEY, Override, Slots, next_key, quota_key

PAUSE_KEY = "rollcall:allowance:pause:"
BLOCK_KEY = "rollcall:allowance:block:"
PERSON_KEY = "rollcall:allowance:person:"

# A slot is given at most this long before its time, and at most a quarter of the space: what happens to a call until
# then must still be able to push the next one, which is given as early.
LEAD_S = 0.05
# Calls arrive with some jitter, so they are planned this much further apart than the limit says.
MARGIN = 0.005
# A person's message asks again when its slot opens; until this much later, at most half a space, nobody else gets it.
PERSON_GRACE_S = 0.1

# KEYS the rates set while running, that a person waits, since when Redis remembers, then next, pause, block and quota of
# each credential; ARGV task, lead, margin and grace as above, whether this is for a person (1 or 0), space between two
# calls (s), requests, units a day (0: no quota), seconds until the quota is renewed, since when Redis remembered when it
# was asked first ('' the first time), then for each credential the pause to set when its quota is spent.
# Returns the credential that may be used, counted from 1, or 0; seconds until the call may leave, or until it is worth
# asking again (0 when all are paused); the space that counts and the rate that was set, if one was; then this slot's
# time and the next one's, by which it can be given back; and since when Redis remembers. Of those that may be used, the
# one that rested longest is; a blocked one only where all are blocked, since what a person asks for tries it again. Where
# Redis has forgotten the last calls (it was flushed, or restarted empty), the first slots come a space after that.
_RESERVE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
local for_person = ARGV[5] == '1'
local space, requests, per_day, renewed_in = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local set = redis.call('HGET', KEYS[1], ARGV[1])
local rate = ''
if set then
  set = cjson.decode(set)
  space, rate = set.space_s, set.rate
end
local since = redis.call('GET', KEYS[3])
if not since then
  since = string.format('%.6f', now)
  redis.call('SET', KEYS[3], since)
end
local not_before = 0
if ARGV[10] ~= '' and ARGV[10] ~= since then not_before = tonumber(since) + space * (1 + ARGV[3]) end
local credentials = (#KEYS - 3) / 4
local chosen, earliest, least_blocked = 0, 0, 0
for i = 1, credentials do
  local next_key, pause_key, block_key, quota_key = KEYS[4 * i], KEYS[4 * i + 1], KEYS[4 * i + 2], KEYS[4 * i + 3]
  if redis.call('EXISTS', pause_key) == 0 then
    if per_day > 0 and tonumber(redis.call('GET', quota_key) or '0') + requests > per_day then
      redis.call('SET', pause_key, ARGV[10 + i], 'EX', renewed_in)
    else
      local allowed = math.max(tonumber(redis.call('GET', next_key) or '0'), not_before)
      local blocked = redis.call('EXISTS', block_key)
      if chosen == 0 or blocked < least_blocked or (blocked == least_blocked and allowed < earliest) then
        chosen, earliest, least_blocked = i, allowed, blocked
      end
    end
  end
end
local function answer(credential, seconds, at, after)
  return {credential, string.format('%.6f', seconds), string.format('%.17g', space), rate, at, after, since}
end
if chosen == 0 then return answer(0, 0, '', '') end
local wait = earliest - now - math.min(tonumber(ARGV[2]), space / 4)
if not for_person and redis.call('EXISTS', KEYS[2]) == 1 then
  return answer(0, math.max(wait, 0) + math.max(space / credentials, 0.001), '', '')
end
if wait > 0 then
  if for_person then
    local grace = math.min(tonumber(ARGV[4]), space / 2)
    redis.call('SET', KEYS[2], 1, 'PX', math.ceil((wait + grace) * 1000))
  end
  return answer(0, wait, '', '')
end
if for_person then redis.call('DEL', KEYS[2]) end
if per_day > 0 then
  redis.call('INCRBY', KEYS[4 * chosen + 3], requests)
  redis.call('EXPIRE', KEYS[4 * chosen + 3], renewed_in)
end
local starts = math.max(earliest, now)
local at = string.format('%.6f', starts)
local after = string.format('%.6f', starts + space * (1 + ARGV[3]))
redis.call('SET', KEYS[4 * chosen], after, 'EX', math.ceil(after - now) + 1)
return answer(chosen, starts - now, at, after)
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

# KEYS next and quota; ARGV the slot's time, the next one's as it was set with it, requests (0: no quota).
_GIVE_BACK = """
if redis.call('GET', KEYS[1]) == ARGV[2] then redis.call('SET', KEYS[1], ARGV[1], 'KEEPTTL') end
if tonumber(ARGV[3]) > 0 and redis.call('EXISTS', KEYS[2]) == 1 then redis.call('DECRBY', KEYS[2], ARGV[3]) end
"""

# KEYS the rates, then next of each credential; ARGV task, what to keep ('': the settings count again), its space, lead.
# A next time that a slower rate had set is no further away than the new one would have it.
_SET_RATE = """
local clock = redis.call('TIME')
local now = clock[1] + clock[2] / 1000000
if ARGV[2] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[2]) end
local latest = now + ARGV[3] + ARGV[4]
for i = 2, #KEYS do
  if tonumber(redis.call('GET', KEYS[i]) or '0') > latest then
    redis.call('SET', KEYS[i], string.format('%.6f', latest), 'KEEPTTL')
  end
end
"""


class Receipt(Struct, frozen=True):
    """What gives a slot back: its keys, its time and the next one's as Redis wrote them, the units it took."""

    next_key: str
    quota_key: str
    at: str
    after: str
    units: int


class Slot(Struct, frozen=True):
    """An answer to `reserve`: the credential to call with, or the seconds to wait, or neither when all are paused.

    A call with the credential may leave from `starts_at` on (this process's monotonic clock), and keeps `space_s` from
    the next one. `rate` is the one that was set while running, None where the settings' counts.
    """

    credential: str | None = None
    wait_s: float = 0.0
    starts_at: float = 0.0
    space_s: float = 0.0
    rate: str | None = None
    receipt: Receipt | None = None


class SharedAllowance:
    """The one bucket of each task and credential, however many workers ask. Every method may raise RedisError."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._slots = Slots(redis)
        self._reserve = redis.register_script(_RESERVE)
        self._slow = redis.register_script(_SLOW)
        self._give_back = redis.register_script(_GIVE_BACK)
        self._set_rate = redis.register_script(_SET_RATE)
        self._since = b""

    def reserve(
        self,
        task: str,
        platform: Platform,
        credentials: Sequence[str],
        *,
        space_s: float,
        requests: int,
        for_person: bool = False,
    ) -> Slot:
        """Take the next slot of `task` if one of the credentials (their labels) has it now or in a moment.

        `space_s` is the time that this call keeps from the next one, unless another rate was set; `requests` is what
        it takes of the day's quota. While someone asks `for_person` and waits, the others wait a slot longer, whichever
        worker they are held by.
        """
        now = datetime.now(UTC)
        quota = platform.quota or Quota(0, "UTC")
        renewed_at = midnight_after(now, quota.zone)
        reason = f"the day's quota of {quota.per_day:,} is spent"
        keys, spent = [RATES_KEY, f"{PERSON_KEY}{task}", SINCE_KEY], list[bytes]()
        for label in credentials:
            keys += [
                next_key(task, label),
                f"{PAUSE_KEY}{platform.name}:{label}",
                f"{BLOCK_KEY}{platform.name}:{label}",
                quota_key(platform.name, label, renewed_at),
            ]
            spent.append(msgspec.json.encode(Pause(platform.name, label, renewed_at, reason, "quota")))
        seconds = max(1, int((renewed_at - now).total_seconds()))
        options: list[str | float | bytes] = [task, LEAD_S, MARGIN, PERSON_GRACE_S, int(for_person)]
        options += [space_s, requests, quota.per_day, seconds, self._since]
        chosen, away_s, space, rate, at, after, since = self._reserve(keys=keys, args=[*options, *spent])
        self._since = self._since or since
        # Redis said "so many seconds from now" a moment ago: counted from here, a call is rather late than early.
        starts_at = time.monotonic() + float(away_s)
        slot = Slot(wait_s=float(away_s), space_s=float(space), rate=rate.decode() or None)
        if not chosen:
            return slot
        receipt = Receipt(
            next_key=keys[4 * chosen - 1],
            quota_key=keys[4 * chosen + 2],
            at=at.decode(),
            after=after.decode(),
            units=requests if quota.per_day else 0,
        )
        return structs.replace(
            slot, credential=credentials[chosen - 1], wait_s=0.0, starts_at=starts_at, receipt=receipt
        )

    def push(self, receipt: Receipt, *, for_s: float) -> None:
        """Let the call after this one wait at least this long: this one left late."""
        self._slow(keys=[receipt.next_key], args=[for_s])

    def give_back(self, receipt: Receipt) -> None:
        """Return a slot that no call was made with: the next one gets its time, unless that was given on already."""
        self._give_back(keys=[receipt.next_key, receipt.quota_key], args=[receipt.at, receipt.after, receipt.units])

    def slow(self, task: str, credential: str, *, for_s: float) -> None:
        """Let the next call of `task` wait at least this long: the platform's headers said so."""
        self._slow(keys=[next_key(task, credential)], args=[for_s])

    def rate_set(self, task: str) -> str | None:
        """Return the rate that was set while running, as it was written; None where the settings' counts."""
        override = self._slots.overrides().get(task)
        return override.rate if override else None

    def set_rate(self, task: str, credentials: Sequence[str], override: Override | None, *, space_s: float) -> None:
        """Let every worker keep another rate than its settings', or theirs again (None); `space_s` is the new one."""
        keys = [RATES_KEY, *(next_key(task, label) for label in credentials)]
        kept = msgspec.json.encode(override) if override else b""
        self._set_rate(keys=keys, args=[task, kept, space_s, LEAD_S])

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


class TaskAllowance(Struct, frozen=True):
    """What one task asks of the shared allowance: its settings' rate (as Celery shows it), and what a call takes."""

    shared: SharedAllowance
    task: str
    platform: Platform
    credentials: tuple[str, ...]
    rate: str
    space_s: float
    requests: int

    def reserve(self, credential: str | None = None, *, for_person: bool = False) -> Slot:
        """Take the next slot: of this credential, or of any. May raise RedisError."""
        labels = self.credentials if credential is None else (credential,)
        return self.shared.reserve(
            self.task, self.platform, labels, space_s=self.space_s, requests=self.requests, for_person=for_person
        )

    def set_rate(self, rate: str, interval_s: float) -> None:
        """Let every worker keep so many seconds between two requests (0: none), until the settings' rate is set."""
        space_s = interval_s * self.requests
        override = None if math.isclose(space_s, self.space_s, rel_tol=1e-6) else Override(space_s, rate)
        self.shared.set_rate(self.task, self.credentials, override, space_s=space_s)
