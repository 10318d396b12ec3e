-- Puts a started job at the front of its queue. `event` is the data of its event `queued`.
local function requeue(given, job, event)
    redis.call('HSET', keys.job .. job.id, 'status', 'queued', 'eventful', 1)
    redis.call('LPUSH', keys.queue .. job.origin, job.id)
    redis.call('XADD', keys.events .. job.id, 'MAXLEN', '~', given.events_kept, '*', 'name', 'queued', 'data', cjson.encode(event))
    redis.call('EXPIRE', keys.events .. job.id, job.kept)
end

-- Deletes an execution, given as `job:execution`; returns the ids of both.
local function forget_execution(execution)
    local id, execution_id = string.match(execution, '^(.*):([^:]*)$')
    redis.call('DEL', keys.execution .. execution)
    redis.call('ZREM', keys.executions .. id, execution_id)
    return id, execution_id
end
