-- Renews the lease on a training worker's job when Redis is full: it checks its memory only until a script's first write.
local job = cjson.decode(ARGV[1])
redis.call('EXPIRE', keys.execution .. job.execution, job.lasts)
redis.call('ZADD', keys.started .. job.origin, 'XX', job.ends, job.execution)
