-- One transition of one cohort (see service/stores/cohorts_base.py, whose rules these are).
-- KEYS: cohort, ages, costs, bytes
-- ARGV: 1 transition, 2 prefix, 3 cohort digest, 4 now or '', 5 keep ms, 6.. the transition's own
--
--   {prefix}:cohort:DIGEST   hash: the fields below, prompt, rules, and of each member d:INDEX (digest) and r:INDEX (text)
--   {prefix}:cohort-ages     sorted set: cohort digest -> when it is forgotten, in milliseconds
--   {prefix}:cohort-costs    hash: cohort digest -> bytes it is counted with
--   {prefix}:cohort-bytes    sum of costs
local key, ages, costs, bytes = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local transition, prefix, digest, now, keep_ms = ARGV[1], ARGV[2], ARGV[3], now_ms(ARGV[4]), tonumber(ARGV[5])
local fields = {'version', 'round', 'size', 'present', 'closed', 'deadline', 'token', 'lease', 'result', 'failure',
  'opened', 'assembly'}

local function read()
  local values, state = redis.call('HMGET', key, unpack(fields)), {}
  redis.call('ZCARD', ages)
  redis.call('HLEN', costs)
  for at, field in ipairs(fields) do
    state[field] = values[at]
  end
  return state.version and state or nil
end

local function left(at)
  return at and at ~= '' and number(tonumber(at) - now) or ''
end

local function seen(state, ...)
  local lease = state.token and state.token ~= '' and left(state.lease) or '0'
  return {'seen', state.version, state.round, state.size, state.present, state.closed, left(state.deadline), lease,
    state.result or false, state.failure or false, ...}
end

-- Writes what changed; the cohort is kept from now, or from its deadline if that is later.
local function write(state, cost, ...)
  state.version = number(tonumber(state.version) + 1)
  local changes = {...}
  for _, field in ipairs(fields) do
    if state[field] then
      changes[#changes + 1] = field
      changes[#changes + 1] = state[field]
    end
  end
  local from = now
  if state.closed == '0' and state.deadline ~= '' then
    from = math.max(now, tonumber(state.deadline))
  end
  redis.call('HSET', key, unpack(changes))
  redis.call('PEXPIRE', key, number(from - now + keep_ms))
  redis.call('ZADD', ages, number(from + keep_ms), digest)
  if cost ~= 0 then
    redis.call('HINCRBY', costs, digest, number(cost))
    redis.call('INCRBY', bytes, number(cost))
  end
end

local function close(state)
  state.closed, state.assembly = '1', number(now - tonumber(state.opened))
end

local function fail(state, failure)
  state.round = number(tonumber(state.round) + 1)
  state.failure, state.deadline, state.token = failure, '', ''
end

local function forget()
  local over = redis.call('ZRANGEBYSCORE', ages, '-inf', now, 'LIMIT', 0, 1000)
  for _, old in ipairs(over) do
    redis.call('DECRBY', bytes, redis.call('HGET', costs, old) or '0')
    redis.call('HDEL', costs, old)
    redis.call('ZREM', ages, old)
    redis.call('UNLINK', prefix .. ':cohort:' .. old)
  end
end

local function held(state, token)
  return state and not state.result and state.token == token
end

local transitions = {}

-- 6 size, 7 prompt, 8 rules, 9 index, 10 digest of the response, 11 response, 12 wait ms, 13 cost of the member,
-- 14 cost of a cohort, 15 most cohorts, 16 most bytes
function transitions.join()
  forget()
  local state, known = read(), false
  if state then
    local terms = redis.call('HMGET', key, 'prompt', 'rules', 'd:' .. ARGV[9])
    known = terms[3]
    if state.size ~= ARGV[6] then return {'size'} end
    if terms[1] ~= ARGV[7] then return {'prompt'} end
    if terms[2] ~= ARGV[8] then return {'rules'} end
    if known and known ~= ARGV[10] then return {'response'} end
    if state.closed == '1' then
      return known and seen(state) or {'closed'}
    end
  end
  local cost = (state and 0 or tonumber(ARGV[14])) + (known and 0 or tonumber(ARGV[13]))
  if cost > 0 then
    local cohorts = redis.call('ZCARD', ages) + (state and 0 or 1)
    local kept = tonumber(redis.call('GET', bytes) or '0') + cost
    if cohorts > tonumber(ARGV[15]) or kept > tonumber(ARGV[16]) then
      return {'full'}
    end
  end
  -- Versions begin with the time: a cohort that was lost and came again must not look unchanged to those who wait.
  state = state or {version = number(now), round = '0', size = ARGV[6], present = '', closed = '0', deadline = ''}
  local deadline = now + tonumber(ARGV[12])
  if state.deadline == '' then
    state.opened = number(now)
  else
    deadline = math.min(deadline, tonumber(state.deadline))
  end
  state.deadline = number(deadline)
  if not known then
    state.present = state.present .. ARGV[9] .. ' '
  end
  local _, members = string.gsub(state.present, ' ', '')
  if members == tonumber(state.size) then
    close(state)
  end
  write(state, cost, 'prompt', ARGV[7], 'rules', ARGV[8], 'd:' .. ARGV[9], ARGV[10], 'r:' .. ARGV[9], ARGV[11])
  return seen(state)
end

function transitions.look()
  local state = read()
  return state and seen(state) or {'none'}
end

-- 6 fewest members, 7 failure. The last two of the reply: whether this ended the round, milliseconds of assembly.
function transitions.expire()
  local state, failed = read(), '0'
  if not state then
    return {'none'}
  end
  if state.closed == '0' and state.deadline ~= '' and now >= tonumber(state.deadline) then
    local _, members = string.gsub(state.present, ' ', '')
    close(state)
    if members < tonumber(ARGV[6]) then
      state.closed, failed = '0', '1'
      fail(state, ARGV[7])
    end
    write(state, 0)
  end
  return seen(state, failed, state.assembly or '0')
end

-- 6 token, 7 lease ms
function transitions.claim()
  local state = read()
  local taken = state and state.token and state.token ~= '' and now < tonumber(state.lease)
  if not state or state.closed == '0' or state.result or taken then
    return {'no'}
  end
  state.token, state.lease = ARGV[6], number(now + tonumber(ARGV[7]))
  local reply = {'claimed', state.size, state.assembly}
  for index in string.gmatch(state.present, '%d+') do
    reply[#reply + 1] = index
    reply[#reply + 1] = redis.call('HGET', key, 'r:' .. index)
  end
  write(state, 0)
  return reply
end

-- 6 token, 7 lease ms
function transitions.renew()
  local state = read()
  if not held(state, ARGV[6]) then
    return {'no'}
  end
  redis.call('HSET', key, 'lease', number(now + tonumber(ARGV[7])))
  return {'yes'}
end

-- 6 token
function transitions.release()
  local state = read()
  if held(state, ARGV[6]) then
    state.token = ''
    write(state, 0)
  end
  return {'yes'}
end

-- 6 token, 7 failure
function transitions.fail()
  local state = read()
  if not held(state, ARGV[6]) then
    return {'no'}
  end
  fail(state, ARGV[7])
  write(state, 0)
  return {'yes'}
end

-- 6 result, 7 cost of a cohort, 8 cost of a member without its text
function transitions.finish()
  local state = read()
  if not state then
    return {'kept', ARGV[6]}
  end
  if state.result then
    return {'known', state.result}
  end
  state.result, state.token = ARGV[6], ''
  local before, dropped, members = tonumber(redis.call('HGET', costs, digest) or '0'), {}, 0
  for index in string.gmatch(state.present, '%d+') do
    dropped[#dropped + 1], members = 'r:' .. index, members + 1
  end
  write(state, tonumber(ARGV[7]) + members * tonumber(ARGV[8]) + #ARGV[6] - before)
  redis.call('HDEL', key, unpack(dropped))
  return {'kept', ARGV[6]}
end

return transitions[transition]()
