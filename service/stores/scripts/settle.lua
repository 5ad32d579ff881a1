-- Puts the statistics of a commit in place of the window they were computed from: the same answer in less memory.
-- KEYS: record   ARGV: 1 prefix, 2 record digest, 3 epoch, 4 seq_last, 5 statistics, 6 now or ''
local record = KEYS[1]
local known = redis.call('HMGET', record, 'epoch', 'last', 'window')
if known[1] == ARGV[3] and known[2] == ARGV[4] and known[3] and living_body(record, now_ms(ARGV[6])) then
  local cost = tonumber(redis.call('HGET', ARGV[1] .. ':costs', ARGV[2]) or '0')
  redis.call('HSET', record, 'stats', ARGV[5])
  redis.call('HDEL', record, 'window')
  count_record(ARGV[1], ARGV[2], math.max(0, cost - #known[3]))
end
return {'settled'}
