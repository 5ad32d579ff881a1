-- Keeps the first reply of a keyed request.
-- KEYS: record   ARGV: 1 prefix, 2 record digest, 3 body hash, 4 reply, 5 now or '', 6 ttl ms, 7 most bytes, 8 overhead
-- Returns {'kept'}, {'known', the first reply} or a refusal.
local record, prefix, digest, reply = KEYS[1], ARGV[1], ARGV[2], ARGV[4]
local now = now_ms(ARGV[5])
local full = records_are_full(prefix, now, tonumber(ARGV[7]))
local body = living_body(record, now)
if not body then
  if full then
    return {'records full'}
  end
  new_record(prefix, digest, now, tonumber(ARGV[6]), tonumber(ARGV[8]) + #reply, 'body', ARGV[3], 'reply', reply)
  return {'kept'}
end
if body ~= ARGV[3] then
  return {'other body'}
end
local known = redis.call('HMGET', record, 'reply', 'scores', 'window')
if known[1] then
  return {'known', known[1]}
end
redis.call('HSET', record, 'reply', reply)
redis.call('HDEL', record, 'draft')
count_record(prefix, digest, tonumber(ARGV[8]) + #reply + #(known[2] or '') + #(known[3] or ''))
return {'kept'}
