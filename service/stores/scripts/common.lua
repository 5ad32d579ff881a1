-- Stands before every script. All keys share the one hash tag {prefix}, so that a script touches a single slot.
--
--   {prefix}:queues          hash: queue digest -> the queue's key as JSON
--   {prefix}:queue:DIGEST    hash: epoch, window, seq, scores, reference (packed doubles, never read as numbers here)
--   {prefix}:record:DIGEST   hash: body, expires, cost, reply, draft, and of a commit epoch, first, last, scores, and
--                            stats, or window until the statistics of that window have been computed
--   {prefix}:ages            sorted set: record digest -> when it expires, in milliseconds
--   {prefix}:costs           hash: record digest -> bytes it is counted with
--   {prefix}:bytes           sum of costs
--
-- A script that fails must fail before its first write, since Redis does not take writes back: every key is read, and so
-- its type tested, before the first one, and Redis refuses (memory, replica, disk) at the first write or never. What a
-- script writes first is therefore what needs memory. (Forgetting what is over may come before: it changes no answer.)

local commit_fields = {'epoch', 'first', 'last', 'scores', 'draft', 'stats', 'window'}
local max_seq = 9007199254740992

local function number(value)
  return string.format('%.0f', value)
end

-- Milliseconds: the caller's clock, or else the server's, which all replicas of the service share.
local function now_ms(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Whether the records fill their share. Those that are over leave first, a thousand at a time.
local function records_are_full(prefix, now, max_bytes)
  local ages, costs, bytes = prefix .. ':ages', prefix .. ':costs', prefix .. ':bytes'
  redis.call('HLEN', costs)
  while true do
    local over = redis.call('ZRANGEBYSCORE', ages, '-inf', now, 'LIMIT', 0, 1000)
    local kept = tonumber(redis.call('GET', bytes) or '0')
    if #over == 0 then
      return kept >= max_bytes
    end
    local freed = 0
    for _, cost in ipairs(redis.call('HMGET', costs, unpack(over))) do
      freed = freed + (tonumber(cost) or 0)
    end
    for _, record in ipairs(over) do
      redis.call('UNLINK', prefix .. ':record:' .. record)
    end
    redis.call('ZREM', ages, unpack(over))
    redis.call('HDEL', costs, unpack(over))
    redis.call('SET', bytes, number(math.max(0, kept - freed)))
  end
end

-- The body hash of a record that has not expired, or false.
local function living_body(record, now)
  local known = redis.call('HMGET', record, 'body', 'expires')
  return known[1] and tonumber(known[2]) > now and known[1]
end

-- Counts a record, new or changed, with `cost` bytes.
local function count_record(prefix, digest, cost)
  local before = tonumber(redis.call('HGET', prefix .. ':costs', digest) or '0')
  redis.call('HSET', prefix .. ':costs', digest, number(cost))
  redis.call('INCRBY', prefix .. ':bytes', number(cost - before))
end

-- A new record with its fields, which Redis forgets by itself when its time is over.
local function new_record(prefix, digest, now, ttl_ms, cost, ...)
  local record = prefix .. ':record:' .. digest
  redis.call('HSET', record, 'expires', number(now + ttl_ms), ...)
  redis.call('PEXPIRE', record, number(ttl_ms))
  redis.call('ZADD', prefix .. ':ages', number(now + ttl_ms), digest)
  count_record(prefix, digest, cost)
end
