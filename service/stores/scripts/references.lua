-- Keeps references, all or none. KEYS: references, reference bytes
-- ARGV: 1 most references, 2 most bytes, 3 bytes that each costs beside its text, then prompt, text, prompt, text, ..
-- Returns {'kept' or 'full', references, bytes}: those there are, or would be. A text is never empty.
local count = redis.call('HLEN', KEYS[1])
local bytes = tonumber(redis.call('GET', KEYS[2]) or '0')
for i = 4, #ARGV, 2 do
  local before = redis.call('HSTRLEN', KEYS[1], ARGV[i])
  if before == 0 then
    count = count + 1
    bytes = bytes + tonumber(ARGV[3])
  end
  bytes = bytes + #ARGV[i + 1] - before
end
if count > tonumber(ARGV[1]) or bytes > tonumber(ARGV[2]) then
  return {'full', number(count), number(bytes)}
end
for i = 4, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[2], number(bytes))
return {'kept', number(count), number(bytes)}
