"""The Lua scripts: what has to be atomic when a job is submitted, canceled, started, kept alive and ended.

Where a script says NAMES, `script_names` puts the beginnings of keys.
"""

from workers.turns import CLOCK, ENTER, TAKING

# Queues jobs, none of them twice, and takes them at once for a worker that has offered to. The others are woken when nothing else was
# waiting, for whoever left others behind has no room for more either; unless a job is quick, as one that only decodes is, or the first in
# turn.
SUBMIT = (
    """
local p, g = NAMES, cjson.decode(ARGV[1])
"""
    + CLOCK
    + ENTER
    + TAKING
    + """

-- Queues a job; whether a generation worker may want it.
local function submit(e, data)
    local queue, job = p.queue .. e.origin, p.job .. e.id
    if redis.call('EXISTS', job) == 1 then return false end
    redis.call('SADD', p.queues, queue)
    redis.call('HSET', job, 'data', data, unpack(e.record))
    if e.ttl then redis.call('EXPIRE', job, e.ttl) end
    redis.call('HINCRBY', p.backlog, e.origin, e.cost)
    redis.call('ZADD', p.recent, g.unix, e.id)
    redis.call('XADD', p.events .. e.id, '*', 'name', 'queued', 'data', '{"queue": "' .. e.origin .. '"}')
    redis.call('EXPIRE', p.events .. e.id, g.kept)
    local next = e.cost > 0 and enter(g, e)
    local first = redis.call('RPUSH', queue, e.id) == 1
    return e.cost > 0 and (first or e.quick or next)
end

-- The worker with the most room among those that offered to take jobs and still listen.
local function offered()
    while true do
        local name, room = unpack(redis.call('ZPOPMAX', p.offers))
        if not name then return nil end
        local text, since, images = unpack(redis.call('HMGET', p.worker .. name, 'offer', 'offered_at', 'decoding_room'))
        local there = text and clock() - since < g.offer_lasts and redis.call('PUBSUB', 'NUMSUB', p.handed .. name)[2] > 0
        if there then return cjson.decode(text), tonumber(room), tonumber(images) end
    end
end

-- Starts what waits for a worker that has offered to take it, in its name; whether nothing is left then. The offer stands for the rest.
local function hand_over()
    local worker, room, images = offered()
    if not worker then return false end
    worker.room, worker.decoding_room, worker.unix, worker.now, worker.execution = room, images, g.unix, g.now, g.execution
    local taken, left, room_left, images_left = take(worker)
    if taken then redis.call('PUBLISH', p.handed .. worker.worker, taken) end
    if images_left < images then redis.call('HSET', worker.worker_key, 'decoding_room', images_left) end
    if room_left > 0 and images_left > 0 then redis.call('ZADD', p.offers, room_left, worker.worker) end
    return left == 0
end

local wanted = false
for at = 2, #ARGV, 2 do wanted = submit(cjson.decode(ARGV[at]), ARGV[at + 1]) or wanted end
redis.call('ZREMRANGEBYRANK', p.recent, 0, -g.recent_kept - 1)
if wanted and not hand_over() then redis.call('PUBLISH', p.submitted, '') end
"""
)

# A job still in its queue ends here and now. One that was taken gets a mark that outlives its worker, and the caller tells the worker.
CANCEL = """
local job, id, ended_at, kept = KEYS[1], ARGV[1], ARGV[8], ARGV[10]
local status, origin, worker = unpack(redis.call('HMGET', job, 'status', 'origin', 'worker_name'))
if not status then return nil end
if status == 'queued' and redis.call('LREM', ARGV[2] .. origin, 1, id) == 1 then
    local cost = 0 - tonumber(redis.call('HGET', job, 'cost') or 0)
    redis.call('HINCRBY', ARGV[4], origin, cost)
    redis.call('ZREM', ARGV[11] .. origin, id)
    redis.call('ZREM', ARGV[13] .. origin, id)
    redis.call('ZADD', ARGV[12] .. origin, 'XX', 'INCR', cost, redis.call('HGET', job, 'caller') or '')
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

# For each job: 0 when it is no longer ours (it counted as abandoned), 1 when it is, 2 when somebody asked it to stop as well.
BEAT = (
    """
local p, g, answers = NAMES, cjson.decode(ARGV[1]), {}
"""
    + CLOCK
    + """
local now = clock()

local function beat(e)
    local composite, job = e.id .. ':' .. e.execution_id, p.job .. e.id
    local status, canceled = unpack(redis.call('HMGET', job, 'status', 'cancel_requested'))
    if status ~= 'started' or not redis.call('ZSCORE', p.started .. e.origin, composite) then return 0 end
    redis.call('ZADD', p.started .. e.origin, 'XX', now + g.lease, composite)
    redis.call('HSET', p.execution .. composite, 'id', e.execution_id, 'job_id', e.id,
        'created_at', e.started_at, 'last_heartbeat', g.unix, 'worker_name', g.worker)
    redis.call('EXPIRE', p.execution .. composite, g.lease)
    redis.call('ZADD', p.executions .. e.id, now + g.lease + 60, e.execution_id)
    redis.call('EXPIRE', p.executions .. e.id, g.lease + 60)
    redis.call('HSET', job, 'last_heartbeat', g.now)
    if e.progress ~= '' then
        redis.call('SET', p.progress .. e.id, e.progress, 'EX', g.lease + 60)
        redis.call('XADD', p.events .. e.id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'progress', 'data', e.progress)
        redis.call('EXPIRE', p.events .. e.id, g.kept)
    end
    return canceled and 2 or 1
end

for i, e in ipairs(cjson.decode(ARGV[2])) do answers[i] = beat(e) end
return answers
"""
)

# For each job: 1 when it was still ours to end, 0 when somebody else has it by now, and why when there is no room for its files: then
# it has not ended. The last answer is whether the worker's offer to take others stands. A file somebody waits for goes to him with the
# news, if it is small. Redis asks whether there is room before a script's first write only, so the files of all jobs come before
# everything else.
END = (
    """
local p, g, answers, told, counts, worked, replies = NAMES, cjson.decode(ARGV[1]), {}, {}, {}, 0, {}
"""
    + CLOCK
    + TAKING
    + """

local function keep(e)
    for at, file in ipairs(e.files) do
        local answer = redis.pcall('SET', p.artifact .. e.id .. ':' .. file[1], ARGV[file[2]], 'EX', e.ttl)
        if answer.err then
            for before = 1, at - 1 do redis.call('DEL', p.artifact .. e.id .. ':' .. e.files[before][1]) end
            return answer.err
        end
    end
end

local function send(e, reply)
    local channel, name = string.match(reply, '^(%S+) (.+)$')
    for _, file in ipairs(e.files) do
        local content = ARGV[file[2]]
        if file[1] == name and #content <= g.sent_at_most then
            replies[channel] = (replies[channel] or '') .. e.id .. ' ' .. #content .. ' ' .. content
        end
    end
end

-- Keeps a job's files if it is still ours; what is found out goes with it.
local function look(e)
    local status
    e.composite, e.job = e.id .. ':' .. e.execution_id, p.job .. e.id
    status, e.reply = unpack(redis.call('HMGET', e.job, 'status', 'reply'))
    e.ours = status == 'started' and redis.call('ZSCORE', p.started .. e.origin, e.composite)
    e.refused = e.ours and keep(e)
end

local function finish(e)
    local composite, job = e.composite, e.job
    if e.refused then return e.refused end
    redis.call('DEL', p.execution .. composite)
    redis.call('SREM', g.worker_executions, composite)
    redis.call('ZREM', p.executions .. e.id, e.execution_id)
    redis.call('ZREM', p.started .. e.origin, composite)
    if not e.ours then return 0 end
    redis.call('HSET', job, 'status', e.status, 'ended_at', g.now, 'last_heartbeat', g.now)
    redis.call('EXPIRE', job, e.ttl)
    redis.call('ZADD', p[e.registry] .. e.origin, g.unix + e.ttl, e.id)
    redis.call('XADD', p.results .. e.id, 'MAXLEN', 10, '*', unpack(e.result))
    redis.call('EXPIRE', p.results .. e.id, e.ttl)
    counts[e.counter] = (counts[e.counter] or 0) + 1
    worked = worked + e.seconds
    redis.call('XADD', p.events .. e.id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'end', 'data', e.announced)
    redis.call('EXPIRE', p.events .. e.id, e.ttl)
    redis.call('DEL', p.progress .. e.id)
    if e.reply then send(e, e.reply) end
    table.insert(told, e.id)
    return 1
end

local endings = cjson.decode(ARGV[2])
for _, e in ipairs(endings) do look(e) end
for i, e in ipairs(endings) do answers[i] = finish(e) end
for counter, count in pairs(counts) do redis.call('HINCRBY', g.worker_key, counter, count) end
if worked > 0 then redis.call('HINCRBYFLOAT', g.worker_key, 'total_working_time', string.format('%.6f', worked)) end
for channel, content in pairs(replies) do redis.call('PUBLISH', channel, content) end
if #told > 0 then redis.call('PUBLISH', p.ended, table.concat(told, ' ')) end
local left = 0
for _, queue in ipairs(g.queues or {}) do left = left + redis.call('LLEN', queue) end
table.insert(answers, offer(g, ARGV[1], g.room or 0, left))
return answers
"""
)
