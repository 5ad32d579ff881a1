-- What is remembered under a key; writes nothing.
-- KEYS: record   ARGV: 1 prefix, 2 body hash, 3 now or '', 4 most bytes
-- Returns {'known', reply, fields of its commit ..}, {'new'} or a refusal.
local record, prefix = KEYS[1], ARGV[1]
local now = now_ms(ARGV[3])
local body = living_body(record, now)
if body then
  if body ~= ARGV[2] then
    return {'other body'}
  end
  return {'known', redis.call('HGET', record, 'reply'), redis.call('HMGET', record, unpack(commit_fields))}
end
local kept = tonumber(redis.call('GET', prefix .. ':bytes') or '0')
if kept >= tonumber(ARGV[4]) then
  local over = redis.call('ZRANGEBYSCORE', prefix .. ':ages', '-inf', now)
  for at = 1, #over, 1000 do
    local some = redis.call('HMGET', prefix .. ':costs', unpack(over, at, math.min(at + 999, #over)))
    for _, cost in ipairs(some) do
      kept = kept - (tonumber(cost) or 0)
    end
  end
end
if kept >= tonumber(ARGV[4]) then
  return {'records full'}
end
return {'new'}
