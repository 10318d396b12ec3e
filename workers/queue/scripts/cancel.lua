-- include: turns settling
-- Cancels a job. A queued one ends here; a started one gets a mark that outlives its worker, and the caller has to tell the worker.
-- Returns the job's status, `stop:` and the worker's name where it has to stop, nil where there is no such job.
-- Redis checks its memory only until a script's first write: one that removes nothing lets jobs be canceled when Redis is full.
local given = cjson.decode(ARGV[1])
redis.call('DEL', keys.record)
local job = keys.job .. given.id
local status, origin, worker, cost, caller = unpack(redis.call('HMGET', job, 'status', 'origin', 'worker_name', 'cost', 'caller'))
if not status then return nil end

local function end_queued()
    cost = 0 - tonumber(cost or 0)
    redis.call('HINCRBY', keys.backlog, origin, cost)
    remove_turn(origin, given.id)
    redis.call('ZADD', keys.callers .. origin, 'XX', 'INCR', cost, caller or '')
    redis.call('HSET', job, 'status', 'canceled', 'ended_at', given.now, 'cost', 0)
    redis.call('EXPIRE', job, given.kept)
    settle(given.id, given.bytes, given.unix + given.kept)
    redis.call('ZADD', keys.canceled .. origin, given.unix + given.kept, given.id)
    redis.call('EXPIRE', keys.events .. given.id, given.kept)
    redis.call('PUBLISH', keys.ended, given.id)
    redis.call('DEL', keys.progress .. given.id)
    return 'canceled'
end

if status == 'queued' and redis.call('LREM', keys.queue .. origin, 1, given.id) == 1 then return end_queued() end
if status == 'queued' or status == 'started' then
    redis.call('HSET', job, 'cancel_requested', 1)
    return 'stop:' .. (worker or '')
end
return status
