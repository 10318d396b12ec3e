-- include: clock many
-- Starts jobs for a worker: `start_job` writes what each job has for itself, `finish_starting` what can be written once for all of them.
-- The caller writes the job's hash, with `started_fields`, and its events. RQ's list of a job's executions is written with the first
-- heartbeat, because most jobs are over by then.

local function new_starts(worker)
    return {worker = worker, now = clock(), jobs = {}, contents = {}, executions = {}, leases = {}}
end

local function next_execution(starts)
    return starts.worker.execution .. string.format('%03x', #starts.jobs)
end

-- Fields and values that tell in the next job's hash that it runs.
local function started_fields(starts)
    local worker = starts.worker
    return {'status', 'started', 'started_at', worker.now, 'last_heartbeat', worker.now, 'worker_name', worker.name, 'cost', 0,
        'execution', next_execution(starts)}
end

-- `job` has origin, id, created_at, expires_at, cancel_requested and data; what is not known is false.
local function start_job(starts, job)
    local worker, execution_id = starts.worker, next_execution(starts)
    local execution = job.id .. ':' .. execution_id
    redis.call('HSET', keys.execution .. execution, 'id', execution_id, 'job_id', job.id,
        'created_at', worker.unix, 'last_heartbeat', worker.unix, 'worker_name', worker.name)
    redis.call('EXPIRE', keys.execution .. execution, worker.lease)
    local leases = starts.leases[job.origin] or {}
    starts.leases[job.origin] = leases
    table.insert(leases, starts.now + worker.lease)
    table.insert(leases, execution)
    table.insert(starts.executions, execution)
    table.insert(starts.jobs, {job.origin, job.id, execution_id, job.created_at, job.expires_at, job.cancel_requested, #job.data})
    table.insert(starts.contents, job.data)
end

-- Returns the message that brings the started jobs to their worker, nil where there are none: a line of JSON, then the data of each job.
local function finish_starting(starts)
    local worker = starts.worker
    if #starts.jobs == 0 then return nil end
    for origin, leases in pairs(starts.leases) do many(leases, 'ZADD', keys.started .. origin) end
    many(starts.executions, 'SADD', worker.executions)
    redis.call('EXPIRE', worker.executions, worker.lease + 60)
    return cjson.encode({jobs = starts.jobs, unix = worker.unix}) .. '\n' .. table.concat(starts.contents)
end
