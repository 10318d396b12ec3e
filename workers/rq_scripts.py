"""The Lua scripts: what has to be atomic when a job is submitted, canceled, started, kept alive and ended."""

# Wakes the workers when the job just pushed is the only one waiting: whoever left others behind has no room for it either,
# unless it only decodes.
RING = "if redis.call('LLEN', KEYS[1]) <= 1 or ARGV[2] == '1' then redis.call('PUBLISH', ARGV[1], '') end"

# A job still in its queue ends here and now. One that was taken gets a mark that outlives its worker, and the caller tells the worker.
CANCEL = """
local job, id, ended_at, kept = KEYS[1], ARGV[1], ARGV[8], ARGV[10]
local status, origin, worker = unpack(redis.call('HMGET', job, 'status', 'origin', 'worker_name'))
if not status then return nil end
if status == 'queued' and redis.call('LREM', ARGV[2] .. origin, 1, id) == 1 then
    redis.call('HINCRBY', ARGV[4], origin, 0 - tonumber(redis.call('HGET', job, 'cost') or 0))
    redis.call('HSET', job, 'status', 'canceled', 'ended_at', ended_at, 'cost', 0)
    redis.call('EXPIRE', job, kept)
    redis.call('ZADD', ARGV[3] .. origin, ARGV[9], id)
    redis.call('XADD', ARGV[5], '*', 'name', 'end', 'data', '{"status": "canceled"}')
    redis.call('EXPIRE', ARGV[5], kept)
    redis.call('PUBLISH', ARGV[6], id)
    redis.call('DEL', ARGV[7])
    return 'canceled'
end
if status == 'queued' or status == 'started' then
    redis.call('HSET', job, 'cancel_requested', 1)
    return 'stop:' .. (worker or '')
end
return status
"""

# Walks the queues in order. A job that needs chains is taken while there is room; one that only decodes has room of its own, so that
# it never waits behind long chains. Popping and starting are one: a job is in its queue or in the registry of started ones.
TAKE = """
local p, g = cjson.decode(ARGV[1]), cjson.decode(ARGV[2])
local room, decoding_room, taken = g.room, g.decoding_room, {}

local function start(origin, id, job, cost)
    local execution_id = g.execution .. string.format('%03x', #taken)
    local composite = id .. ':' .. execution_id
    redis.call('HINCRBY', p.backlog, origin, 0 - tonumber(cost or 0))
    redis.call('HSET', job, 'status', 'started', 'started_at', g.now, 'last_heartbeat', g.now, 'worker_name', g.worker, 'cost', 0)
    redis.call('PERSIST', job)
    redis.call('HSET', p.execution .. composite, 'id', execution_id, 'job_id', id,
        'created_at', g.unix, 'last_heartbeat', g.unix, 'worker_name', g.worker)
    redis.call('EXPIRE', p.execution .. composite, g.lease)
    redis.call('ZADD', p.executions .. id, g.unix + g.lease + 60, execution_id)
    redis.call('EXPIRE', p.executions .. id, g.lease + 60)
    redis.call('ZADD', p.started .. origin, g.unix + g.lease, composite)
    redis.call('SADD', g.worker_executions, composite)
    redis.call('EXPIRE', g.worker_executions, g.lease + 60)
    redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'started', 'data', g.started)
    redis.call('EXPIRE', p.events .. id, g.kept)
    local told = redis.call('HMGET', job, 'created_at', 'data', 'expires_at', 'cancel_requested')
    table.insert(taken, {origin, id, execution_id, unpack(told)})
end

for _, queue in ipairs(KEYS) do
    local origin = string.sub(queue, #p.queue + 1)
    local waiting = redis.call('LRANGE', queue, 0, g.look - 1)
    if #waiting == 0 then redis.call('HDEL', p.backlog, origin) end
    for _, id in ipairs(waiting) do
        if room <= 0 and decoding_room <= 0 then return taken end
        local job = p.job .. id
        local status, chains, cost, decodes = unpack(redis.call('HMGET', job, 'status', 'chains', 'cost', 'decodes'))
        chains = tonumber(chains or 1)
        if status ~= 'queued' then
            redis.call('LREM', queue, 1, id)
        elseif decodes and decoding_room > 0 then
            redis.call('LREM', queue, 1, id)
            decoding_room = decoding_room - chains
            start(origin, id, job, cost)
        elseif not decodes and room > 0 then
            redis.call('LREM', queue, 1, id)
            room = room - chains
            start(origin, id, job, cost)
        end
    end
end
return taken
"""

# For each job: 0 when it is no longer ours (it counted as abandoned), 1 when it is, 2 when somebody asked it to stop as well.
BEAT = """
local p, g, answers = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), {}

local function beat(e)
    local composite, job = e.id .. ':' .. e.execution_id, p.job .. e.id
    local status, canceled = unpack(redis.call('HMGET', job, 'status', 'cancel_requested'))
    if status ~= 'started' or not redis.call('ZSCORE', p.started .. e.origin, composite) then return 0 end
    redis.call('ZADD', p.started .. e.origin, 'XX', g.unix + g.lease, composite)
    redis.call('HSET', p.execution .. composite, 'id', e.execution_id, 'job_id', e.id,
        'created_at', e.started_at, 'last_heartbeat', g.unix, 'worker_name', g.worker)
    redis.call('EXPIRE', p.execution .. composite, g.lease)
    redis.call('ZADD', p.executions .. e.id, g.unix + g.lease + 60, e.execution_id)
    redis.call('EXPIRE', p.executions .. e.id, g.lease + 60)
    redis.call('HSET', job, 'last_heartbeat', g.now)
    if e.progress ~= '' then
        redis.call('SET', p.progress .. e.id, e.progress, 'EX', g.lease + 60)
        redis.call('XADD', p.events .. e.id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'progress', 'data', e.progress)
        redis.call('EXPIRE', p.events .. e.id, g.kept)
    end
    return canceled and 2 or 1
end

for i, e in ipairs(cjson.decode(ARGV[3])) do answers[i] = beat(e) end
return answers
"""

# For each job: 1 when it was still ours to end, 0 when somebody else has it by now.
END = """
local p, g, answers, told = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), {}, {}

local function finish(e)
    local composite, job = e.id .. ':' .. e.execution_id, p.job .. e.id
    redis.call('DEL', p.execution .. composite)
    redis.call('SREM', g.worker_executions, composite)
    redis.call('ZREM', p.executions .. e.id, e.execution_id)
    local ours = redis.call('ZREM', p.started .. e.origin, composite) == 1 and redis.call('HGET', job, 'status') == 'started'
    if not ours then return 0 end
    redis.call('HSET', job, 'status', e.status, 'ended_at', g.now, 'last_heartbeat', g.now)
    redis.call('EXPIRE', job, e.ttl)
    redis.call('ZADD', p[e.registry] .. e.origin, g.unix + e.ttl, e.id)
    redis.call('XADD', p.results .. e.id, 'MAXLEN', 10, '*', unpack(e.result))
    redis.call('EXPIRE', p.results .. e.id, e.ttl)
    redis.call('HINCRBY', g.worker_key, e.counter, 1)
    redis.call('HINCRBYFLOAT', g.worker_key, 'total_working_time', e.seconds)
    redis.call('XADD', p.events .. e.id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'end', 'data', e.announced)
    redis.call('EXPIRE', p.events .. e.id, e.ttl)
    redis.call('DEL', p.progress .. e.id)
    table.insert(told, e.id)
    return 1
end

for i, e in ipairs(cjson.decode(ARGV[3])) do answers[i] = finish(e) end
if #told > 0 then redis.call('PUBLISH', p.ended, table.concat(told, ' ')) end
return answers
"""
