-- One commit: the window, its seq and epoch, and the idempotency record change together or not at all.
-- KEYS: queue, queues, and of a keyed commit the record
-- ARGV: 1 queue digest, 2 queue key, 3 window, 4 scores, 5 an epoch if a new one begins, 6 most queues
--       keyed: 7 prefix, 8 record digest, 9 body hash, 10 draft, 11 now or '', 12 ttl ms, 13 most bytes, 14 overhead
-- Returns {'committed', epoch, seq_last, scores of the window}, {'replayed', fields of the first commit ..} or a refusal.
local queue, queues, record = KEYS[1], KEYS[2], KEYS[3]
local digest, window, scores = ARGV[1], tonumber(ARGV[3]), ARGV[4]
local now
if record then
  now = now_ms(ARGV[11])
  local full = records_are_full(ARGV[7], now, tonumber(ARGV[13]))
  local body = living_body(record, now)
  if body then
    if body ~= ARGV[9] then
      return {'other body'}
    end
    return {'replayed', redis.call('HMGET', record, unpack(commit_fields))}
  end
  if full then
    return {'records full'}
  end
end

local before = redis.call('HMGET', queue, 'epoch', 'window', 'seq', 'scores', 'reference')
local epoch, seq = before[1], tonumber(before[3] or '0')
local indexed = redis.call('HEXISTS', queues, digest) == 1
if not epoch then
  if not indexed and redis.call('HLEN', queues) >= tonumber(ARGV[6]) then
    return {'queues full'}
  end
  epoch = ARGV[5]
elseif tonumber(before[2]) ~= window then
  return {'other window', before[2]}
elseif #before[4] ~= 8 * math.min(seq, window) or #before[5] ~= (seq >= window and 8 * window or 0) then
  return {'damaged'}
end

local entries, added, reference = (before[4] or '') .. scores, #scores / 8, before[5] or ''
if seq > max_seq - added then
  return {'used up'}
end
if reference == '' and #entries >= 8 * window then
  reference = string.sub(entries, 1, 8 * window)
end
local kept, last = string.sub(entries, -8 * window), number(seq + added)
redis.call('HSET', queue, 'epoch', epoch, 'window', ARGV[3], 'seq', last, 'scores', kept, 'reference', reference)
if not indexed then
  redis.call('HSET', queues, digest, ARGV[2])
end
if record then
  local cost = tonumber(ARGV[14]) + #ARGV[10] + #scores + #kept
  new_record(ARGV[7], ARGV[8], now, tonumber(ARGV[12]), cost, 'body', ARGV[9], 'draft', ARGV[10], 'epoch', epoch,
    'first', number(seq + 1), 'last', last, 'scores', scores, 'window', kept)
end
return {'committed', epoch, last, kept}
