-- include: clock
-- Renews the leases on a worker's jobs and notes their progress. For each job: 0 when the worker no longer has it, as its lease ran out,
-- 1 when it does, 2 when it does and a cancel was requested.
-- Redis checks its memory only until a script's first write: one that removes nothing lets leases be renewed when Redis is full.
local worker, answers = cjson.decode(ARGV[1]), {}
local now = clock()

local function note_progress(job)
    redis.call('HSET', keys.job .. job.id, 'eventful', 1)
    redis.call('SET', keys.progress .. job.id, job.progress, 'EX', worker.lease + 60)
    redis.call('XADD', keys.events .. job.id, 'MAXLEN', '~', worker.events_kept, '*', 'name', 'progress', 'data', job.progress)
    redis.call('EXPIRE', keys.events .. job.id, worker.kept)
end

local function beat(job)
    local key, execution = keys.job .. job.id, job.id .. ':' .. job.execution_id
    local status, cancel_requested = unpack(redis.call('HMGET', key, 'status', 'cancel_requested'))
    if status ~= 'started' or not redis.call('ZSCORE', keys.started .. job.origin, execution) then return 0 end
    redis.call('ZADD', keys.started .. job.origin, 'XX', now + worker.lease, execution)
    redis.call('HSET', keys.execution .. execution, 'id', job.execution_id, 'job_id', job.id,
        'created_at', job.started_at, 'last_heartbeat', worker.unix, 'worker_name', worker.name)
    redis.call('EXPIRE', keys.execution .. execution, worker.lease)
    redis.call('ZADD', keys.executions .. job.id, now + worker.lease + 60, job.execution_id)
    redis.call('EXPIRE', keys.executions .. job.id, worker.lease + 60)
    redis.call('HSET', key, 'last_heartbeat', worker.now)
    if job.progress ~= '' then note_progress(job) end
    return cancel_requested and 2 or 1
end

redis.call('DEL', keys.record)
for place, job in ipairs(cjson.decode(ARGV[2])) do answers[place] = beat(job) end
return answers
