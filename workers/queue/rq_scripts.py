"""The Lua scripts: what has to be atomic when a job is submitted, canceled, started, kept alive and ended.

Where a script says NAMES, `script_names` puts the beginnings of keys.
"""

from workers.queue.turns import CLOCK, ENTER, MANY, STARTING, TAKING

# Queues jobs, none of them twice. Where a worker has offered to take jobs it gets them: at once those of a call for which it has room
# when nothing else waits, else whose turn it is. The others are woken when nothing else was waiting, for whoever left others behind has no
# room for more either; unless a job is quick, as one that only decodes is, or the first in turn. Answers how many chain-steps wait now.
SUBMIT = (
    """
local p, g = NAMES, cjson.decode(ARGV[1])
"""
    + CLOCK
    + MANY
    + STARTING
    + ENTER
    + TAKING
    + """
local recent = {}  -- to be written once for all jobs

-- The jobs that are not known yet, each once. Their records have from now on what all jobs of their queue have in common.
local function newcomers()
    local asked, new = {}, {}
    for at = 2, #ARGV, 2 do
        local e = cjson.decode(ARGV[at])
        e.job, e.data = p.job .. e.id, ARGV[at + 1]
        table.insert(asked, e)
    end
    for origin, record in pairs(g.records) do
        redis.call('SADD', p.queues, p.queue .. origin)  -- the first write: refused where Redis is full
        redis.call('HSET', p.record .. origin, unpack(record))
    end
    for _, e in ipairs(asked) do
        if redis.call('COPY', p.record .. e.origin, e.job) == 1 then table.insert(new, e) end
    end
    for origin in pairs(g.records) do redis.call('DEL', p.record .. origin) end
    return new
end

-- Writes the rest of a job's record, these fields among it.
local function record(e, fields)
    local words, at = {'data', e.data}, 2
    for _, part in ipairs({e.record, fields}) do
        for place, word in ipairs(part) do words[at + place] = word end
        at = #words
    end
    redis.call('HSET', e.job, unpack(words))
    table.insert(recent, g.unix)
    table.insert(recent, e.id)
end

-- Queues a job; whether a generation worker may want it.
local function submit(e)
    record(e, {'status', 'queued', 'cost', e.cost, 'eventful', 1})
    redis.call('XADD', p.events .. e.id, '*', 'name', 'queued', 'data', '{"queue": "' .. e.origin .. '"}')
    redis.call('EXPIRE', p.events .. e.id, g.kept)
    if e.ttl then redis.call('EXPIRE', e.job, e.ttl) end
    redis.call('HINCRBY', p.backlog, e.origin, e.cost)
    local next = e.cost > 0 and enter(g, e)
    local first = redis.call('RPUSH', p.queue .. e.origin, e.id) == 1
    return e.cost > 0 and (first or e.quick or next)
end

-- The worker with the most room among those that offered to take jobs and still listen.
local function offered()
    while true do
        local name, room = unpack(redis.call('ZPOPMAX', p.offers))
        if not name then return nil end
        local text, since, images = unpack(redis.call('HMGET', p.worker .. name, 'offer', 'offered_at', 'decoding_room'))
        local there = text and clock() - since < g.offer_lasts and redis.call('PUBSUB', 'NUMSUB', p.handed .. name)[2] > 0
        if there then
            local worker = cjson.decode(text)
            worker.room, worker.decoding_room = tonumber(room), tonumber(images)
            worker.unix, worker.now, worker.execution = g.unix, g.now, g.execution
            return worker
        end
    end
end

-- Whether a worker has room for all these jobs, and nothing else waits for it.
local function has_room(worker, jobs)
    local room, images = worker.room, worker.decoding_room
    for _, e in ipairs(jobs) do
        if e.cost == 0 then return false end  -- for another kind of worker
        if e.decodes then images = images - e.chains else room = room - e.chains end
    end
    if room < 0 or images < 0 then return false end
    for _, queue in ipairs(worker.queues) do
        if redis.call('EXISTS', queue) == 1 then return false end
    end
    return true, room, images
end

-- Sends a worker what was started for it; its offer stands for the room left.
local function hand_over(worker, taken, room, images)
    if taken then redis.call('PUBLISH', p.handed .. worker.worker, taken) end
    if images < worker.decoding_room then redis.call('HSET', worker.worker_key, 'decoding_room', images) end
    if room > 0 and images > 0 then redis.call('ZADD', p.offers, room, worker.worker) end
end

local function start_all(worker, jobs)
    local starts = starting(worker)
    for _, e in ipairs(jobs) do
        local fields = starts.record()
        table.insert(fields, 'began')
        table.insert(fields, e.origin .. ' ' .. worker.worker)
        record(e, fields)
        starts.start(e.origin, e.id, g.now, e.expires_at or false, false, e.data)
    end
    return starts.tell()
end

local jobs = newcomers()
local worker = #jobs > 0 and offered()
local fits, room, images
if worker then fits, room, images = has_room(worker, jobs) end
if fits then
    hand_over(worker, start_all(worker, jobs), room, images)
else
    local wanted, taken, left = false
    for _, e in ipairs(jobs) do wanted = submit(e) or wanted end
    if worker then
        taken, left, room, images = take(worker)
        hand_over(worker, taken, room, images)
    end
    if wanted and left ~= 0 then redis.call('PUBLISH', p.submitted, '') end
end
many(recent, 'ZADD', p.recent)
redis.call('ZREMRANGEBYRANK', p.recent, 0, -g.recent_kept - 1)
local waiting = 0
for _, cost in ipairs(redis.call('HVALS', p.backlog)) do waiting = waiting + cost end
return waiting
"""
)

# A job still in its queue ends here and now. One that was taken gets a mark that outlives its worker, and the caller tells the worker.
CANCEL = """
local p, g = NAMES, cjson.decode(ARGV[1])
local job = p.job .. g.id
local status, origin, worker, cost, caller = unpack(redis.call('HMGET', job, 'status', 'origin', 'worker_name', 'cost', 'caller'))
if not status then return nil end
if status == 'queued' and redis.call('LREM', p.queue .. origin, 1, g.id) == 1 then
    cost = 0 - tonumber(cost or 0)
    redis.call('HINCRBY', p.backlog, origin, cost)
    redis.call('ZREM', p.turns .. origin, g.id)
    redis.call('ZREM', p.quick .. origin, g.id)
    redis.call('ZADD', p.callers .. origin, 'XX', 'INCR', cost, caller or '')
    redis.call('HSET', job, 'status', 'canceled', 'ended_at', g.now, 'cost', 0)
    redis.call('EXPIRE', job, g.kept)
    redis.call('ZADD', p.canceled .. origin, g.unix + g.kept, g.id)
    redis.call('EXPIRE', p.events .. g.id, g.kept)
    redis.call('PUBLISH', p.ended, g.id)
    redis.call('DEL', p.progress .. g.id)
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
        redis.call('HSET', job, 'eventful', 1)
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
# everything else, and then what needs no room.
END = (
    """
local p, g, answers, told, counts, worked, replies = NAMES, cjson.decode(ARGV[1]), {}, {}, {}, 0, {}
"""
    + CLOCK
    + MANY
    + STARTING
    + TAKING
    + """
local gone, gone_executions, unleased, registered = {}, {}, {}, {}  -- to be written once for all jobs

local function note(lists, key, ...)
    lists[key] = lists[key] or {}
    for _, word in ipairs({...}) do table.insert(lists[key], word) end
end

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
    local status, execution, composite = nil, nil, e.id .. ':' .. e.execution_id
    e.job = p.job .. e.id
    status, execution, e.reply, e.eventful = unpack(redis.call('HMGET', e.job, 'status', 'execution', 'reply', 'eventful'))
    e.ours = status == 'started' and execution == e.execution_id
    e.refused = e.ours and keep(e)
    if e.refused then return end
    table.insert(gone, p.execution .. composite)
    table.insert(gone_executions, composite)
    note(unleased, p.started .. e.origin, composite)
    if e.ours then
        table.insert(gone, p.executions .. e.id)
        table.insert(gone, p.progress .. e.id)
    end
end

local function finish(e)
    local job = e.job
    if e.refused then return e.refused end
    if not e.ours then return 0 end
    redis.call('HSET', job, 'status', e.status, 'ended_at', g.now, 'last_heartbeat', g.now)
    redis.call('EXPIRE', job, e.ttl)
    note(registered, p[e.registry] .. e.origin, g.unix + e.ttl, e.id)
    redis.call('XADD', p.results .. e.id, 'MAXLEN', 10, '*', unpack(e.result))
    redis.call('EXPIRE', p.results .. e.id, e.ttl)
    counts[e.counter] = (counts[e.counter] or 0) + 1
    worked = worked + e.seconds
    if e.eventful then redis.call('EXPIRE', p.events .. e.id, e.ttl) end
    if e.reply then send(e, e.reply) end
    table.insert(told, e.id)
    return 1
end

local endings = cjson.decode(ARGV[2])
for _, e in ipairs(endings) do look(e) end
for registry, composites in pairs(unleased) do many(composites, 'ZREM', registry) end
many(gone, 'DEL')
many(gone_executions, 'SREM', g.worker_executions)
for i, e in ipairs(endings) do answers[i] = finish(e) end
for registry, scores in pairs(registered) do many(scores, 'ZADD', registry) end
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
