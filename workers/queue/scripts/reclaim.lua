-- include: clock requeueing settling
-- Reclaims the jobs whose worker is dead; KEYS are the registries of started jobs. A job with a retry left goes to the front of its queue.
-- One without fails if it was alone in its worker; if others ran beside it, it goes to the queue of jobs that run alone.
-- Returns the id and the fate of each, `requeued` or `failed`.
local given, answers = cjson.decode(ARGV[1]), {}
local lost, ran = {}, {}  -- jobs without a worker; how many of them each worker ran
local now = clock()

local function runs_elsewhere(origin, id)
    local execution = redis.call('HGET', keys.job .. id, 'execution')
    local lease = execution and redis.call('ZSCORE', keys.started .. origin, id .. ':' .. execution)
    return lease and tonumber(lease) > now
end

-- Ends an execution; its job is lost unless another worker runs it.
local function drop(registry, execution)
    redis.call('ZREM', registry, execution)
    local id = forget_execution(execution)
    local status, origin, worker = unpack(redis.call('HMGET', keys.job .. id, 'status', 'origin', 'worker_name'))
    if status ~= 'started' or runs_elsewhere(origin, id) then return end
    worker = worker or ''
    ran[worker] = (ran[worker] or 0) + 1
    table.insert(lost, {id = id, origin = origin, worker = worker})
end

local function try_again(job)
    redis.call('HSET', keys.job .. job.id, 'origin', job.origin, 'enqueued_at', given.now)
    requeue(given, job, {queue = job.origin, retried = true})
    table.insert(answers, {job.id, 'requeued'})
end

local function try_alone(job)
    job.origin = given.alone
    redis.call('SADD', keys.queues, keys.queue .. given.alone)
    redis.call('ZADD', keys.turns .. given.alone, now, job.id)
    try_again(job)
end

local function fail(job)
    local id, kept = job.id, job.kept
    local result = job.origin == given.alone and given.died_alone or given.died_twice
    redis.call('HSET', keys.job .. id, 'status', 'failed', 'ended_at', given.now)
    redis.call('EXPIRE', keys.job .. id, kept)
    settle(id, given.bytes, given.unix + kept)
    redis.call('ZADD', keys.failed .. job.origin, given.unix + kept, id)
    redis.call('XADD', keys.results .. id, 'MAXLEN', 10, '*', unpack(result))
    redis.call('EXPIRE', keys.results .. id, kept)
    redis.call('EXPIRE', keys.events .. id, kept)
    redis.call('DEL', keys.progress .. id)
    redis.call('PUBLISH', keys.ended, id)
    table.insert(answers, {id, 'failed'})
end

local function reclaim(job)
    local retries, kept = unpack(redis.call('HMGET', keys.job .. job.id, 'retries_left', 'failure_ttl'))
    job.kept = tonumber(kept or given.kept)
    if tonumber(retries or 0) > 0 then
        redis.call('HINCRBY', keys.job .. job.id, 'retries_left', -1)
        try_again(job)
    elseif ran[job.worker] > 1 then
        try_alone(job)
    else
        fail(job)
    end
end

for _, registry in ipairs(KEYS) do
    for _, execution in ipairs(redis.call('ZRANGEBYSCORE', registry, '-inf', now)) do drop(registry, execution) end
end
-- A worker renews all its leases at once, so one that lost a job has lost them all, also those it took last, whose leases run longer.
for _, registry in ipairs(next(ran) and KEYS or {}) do
    for _, execution in ipairs(redis.call('ZRANGE', registry, 0, -1)) do
        if ran[redis.call('HGET', keys.execution .. execution, 'worker_name') or ''] then drop(registry, execution) end
    end
end
for _, job in ipairs(lost) do reclaim(job) end
if #answers > 0 then redis.call('PUBLISH', keys.submitted, '') end
return answers
