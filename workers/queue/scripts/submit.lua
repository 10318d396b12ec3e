-- include: many starting turns taking offers keeping
-- Submits jobs, each id once. Where a worker has offered room, it gets them at once if it has room for all of them and nothing else waits;
-- otherwise they are queued and it gets the jobs whose turn it is. Other workers are woken when the queue was empty, or when a job is quick
-- or first in turn; otherwise they know of jobs that wait and have no room. A job that would leave more bytes than may be kept is refused.
-- Returns the backlog, all chain-steps that wait now, and for each job 0, or why it is refused: see keeping.lua.
local given = cjson.decode(ARGV[1])
local recent, answers = {}, {}  -- times and ids, written once for all jobs; one answer for each job

-- The jobs whose id is new. Their hashes start as copies of what all jobs of their queue have in common.
local function new_jobs()
    local asked, new = {}, {}
    for at = 2, #ARGV, 2 do
        local job = cjson.decode(ARGV[at])
        job.key, job.data = keys.job .. job.id, ARGV[at + 1]
        table.insert(asked, job)
    end
    for origin, record in pairs(given.records) do
        redis.call('SADD', keys.queues, keys.queue .. origin)  -- the first write: Redis refuses it when it is full
        redis.call('HSET', keys.record .. origin, unpack(record))
    end
    forget_old(given.unix)
    for place, job in ipairs(asked) do
        local copied = redis.call('COPY', keys.record .. job.origin, job.key) == 1
        local refused = copied and given.limits and too_much(job, given.limits, given.unix)
        answers[place] = refused or 0
        if refused then
            redis.call('DEL', job.key)
        elseif copied then
            keep(job.id, job.caller, job.bytes, given.unix + (job.ttl or given.kept))
            table.insert(new, job)
        end
    end
    for origin in pairs(given.records) do redis.call('DEL', keys.record .. origin) end
    return new
end

-- Completes a job's hash with its own fields and these.
local function write_hash(job, fields)
    local words, at = {'data', job.data}, 2
    for _, part in ipairs({job.record, fields}) do
        for place, word in ipairs(part) do words[at + place] = word end
        at = #words
    end
    redis.call('HSET', job.key, unpack(words))
    table.insert(recent, given.unix)
    table.insert(recent, job.id)
end

-- Queues a job; returns whether a generation worker may want it.
local function queue_job(job)
    write_hash(job, {'status', 'queued', 'cost', job.cost, 'eventful', 1})
    redis.call('XADD', keys.events .. job.id, '*', 'name', 'queued', 'data', '{"queue": "' .. job.origin .. '"}')
    redis.call('EXPIRE', keys.events .. job.id, given.kept)
    if job.ttl then redis.call('EXPIRE', job.key, job.ttl) end
    redis.call('HINCRBY', keys.backlog, job.origin, job.cost)
    local is_next = job.cost > 0 and give_turn(job, given.unix)
    local is_first = redis.call('RPUSH', keys.queue .. job.origin, job.id) == 1
    return job.cost > 0 and (is_first or job.quick or is_next)
end

-- Starts all the jobs for a worker without queueing them; returns the message with them.
local function start_all(worker, jobs)
    local starts = new_starts(worker)
    for _, job in ipairs(jobs) do
        local fields = started_fields(starts)
        table.insert(fields, 'began')
        table.insert(fields, job.origin .. ' ' .. worker.name)
        write_hash(job, fields)
        start_job(starts, {origin = job.origin, id = job.id, created_at = given.now, expires_at = job.expires_at or false,
            cancel_requested = false, data = job.data})
    end
    return finish_starting(starts)
end

-- Queues all the jobs; a worker that has offered room gets those whose turn it is.
local function queue_all(worker, jobs)
    local wanted, message, left, room, decoding_room = false
    for _, job in ipairs(jobs) do wanted = queue_job(job) or wanted end
    if worker then
        message, left, room, decoding_room = take(worker)
        send_jobs(worker, message, room, decoding_room)
    end
    if wanted and left ~= 0 then redis.call('PUBLISH', keys.submitted, '') end
end

local jobs = new_jobs()
local worker = #jobs > 0 and best_offer(given.offer_lasts)
local fits, room, decoding_room
if worker then
    worker.unix, worker.now, worker.execution = given.unix, given.now, given.execution
    fits, room, decoding_room = has_room(worker, jobs)
end
if fits then
    send_jobs(worker, start_all(worker, jobs), room, decoding_room)
else
    queue_all(worker, jobs)
end
many(recent, 'ZADD', keys.recent)
redis.call('ZREMRANGEBYRANK', keys.recent, 0, -given.recent_kept - 1)
local backlog = 0
for _, cost in ipairs(redis.call('HVALS', keys.backlog)) do backlog = backlog + cost end
return {backlog, answers}
