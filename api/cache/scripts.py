"""What the second level does in Redis, each step whole. KEYS, but for KEEP: the answer, its flight, the sequence of purges.

An answer is a hash: `stamp` (the sequence when its read began), `at` (milliseconds then), `tags`, `answer`, `content`,
and its bytes by encoding. A flight is the token of the process that reads for all; it goes by itself when that one dies.
"""

# Returns the sequence now, whether the caller has the flight, and the answer if it may be given out: its stamp, age and
# for how long it has missed a commit (-1: it doesn't), what is known of it, and its bytes in one of its encodings.
LOOK = """
local tag_key, recent_key, coding, most_stale, take, token, flight_ms, everything = unpack(ARGV)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seq = redis.call('GET', KEYS[3]) or '0'
local kept = redis.call('HMGET', KEYS[1], 'stamp', 'at', 'tags', 'answer', coding)
local stamp, unseen = tonumber(kept[1] or -1), -1

local function missing_for(tag)
  local purged = redis.call('GET', tag_key .. tag)
  if not purged or tonumber(purged) <= stamp then return -1 end
  for _, one in ipairs(redis.call('LRANGE', recent_key .. tag, 0, -1)) do
    local raised, at = string.match(one, '(%d+):(%d+)')
    if tonumber(raised) > stamp then return math.max(0, now - at) end
  end
  return math.huge
end

local holds = kept[4] and stamp <= tonumber(seq)
if holds then
  unseen = missing_for(everything)
  for tag in string.gmatch(kept[3], '[^\\n]+') do unseen = math.max(unseen, missing_for(tag)) end
  holds = unseen <= tonumber(most_stale)
end
local has_taken = 0
if (take ~= 'never' and not holds) or (take == 'stale' and unseen >= 0) then
  if redis.call('SET', KEYS[2], token, 'NX', 'PX', flight_ms) then has_taken = 1 end
end
if not holds then return {seq, has_taken} end
local bytes = kept[5]
for _, other in ipairs({'identity', 'zstd', 'gzip', 'br'}) do
  bytes = bytes or redis.call('HGET', KEYS[1], other)
end
return {seq, has_taken, kept[1], math.max(0, now - kept[2]), unseen, kept[4], bytes}
"""

# Keeps any number of answers. KEYS: the sequence of purges, and of each its answer and flight; ARGV: nine of each.
# A sequence below the stamp means that Redis has lost its memory since: the stamp says nothing about its purges. What
# began to be read earlier doesn't replace what began later.
KEEP = """
local seq = tonumber(redis.call('GET', KEYS[1]) or '0')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function keep(key, flight, stamp, age, tags, answer, content, coding, bytes, ttl, token)
  if token ~= '' and redis.call('GET', flight) == token then redis.call('DEL', flight) end
  if seq < tonumber(stamp) then return end
  local kept = redis.call('HMGET', key, 'stamp', 'content')
  if kept[1] and tonumber(kept[1]) > tonumber(stamp) then return end
  if kept[2] and kept[2] ~= content then redis.call('DEL', key) end
  redis.call('HSET', key, 'stamp', stamp, 'at', now - age, 'tags', tags, 'answer', answer, 'content', content)
  redis.call('HSETNX', key, coding, bytes)
  redis.call('EXPIRE', key, ttl)
end

for i = 0, #KEYS / 2 - 1 do keep(KEYS[2 * i + 2], KEYS[2 * i + 3], unpack(ARGV, 9 * i + 1, 9 * i + 9)) end
"""

# Adds bytes in a further encoding, or better compressed ones, of the same content.
ADD = """
local content, coding, bytes = unpack(ARGV)
if redis.call('HGET', KEYS[1], 'content') ~= content then return 0 end
redis.call('HSET', KEYS[1], coding, bytes)
return 1
"""

LEAVE = """
if redis.call('GET', KEYS[2]) == ARGV[1] then redis.call('DEL', KEYS[2]) end
return 1
"""
