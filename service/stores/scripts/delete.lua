-- Forgets a queue. KEYS: queue, queues   ARGV: 1 queue digest. Returns {how many there were}.
redis.call('HLEN', KEYS[2])
local existed = redis.call('UNLINK', KEYS[1])
redis.call('HDEL', KEYS[2], ARGV[1])
return {existed}
