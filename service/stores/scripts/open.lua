-- Claims the prefix for this version of the layout. KEYS: version   ARGV: 1 version. Returns {the version there}.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return {redis.call('GET', KEYS[1])}
