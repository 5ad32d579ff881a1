-- Brings a queue back where there is none.
-- KEYS: queue, queues   ARGV: 1 queue digest, 2 queue key, 3 most queues, then the queue's fields
local queue, queues, digest = KEYS[1], KEYS[2], ARGV[1]
if redis.call('EXISTS', queue) == 1 then
  return {'exists'}
end
if redis.call('HEXISTS', queues, digest) == 0 and redis.call('HLEN', queues) >= tonumber(ARGV[3]) then
  return {'queues full'}
end
redis.call('HSET', queue, unpack(ARGV, 4))
redis.call('HSET', queues, digest, ARGV[2])
return {'imported'}
