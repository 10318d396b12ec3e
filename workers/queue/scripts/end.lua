-- include: many offers settling
-- Ends a worker's jobs and keeps their files. For each job: 1 when it has ended, 0 when the worker no longer had it, and Redis's error when
-- there is no room for its files: then it goes on. The last answer is whether the worker's offer stands.
-- Redis checks its memory only until a script's first write, so the files of all jobs are written first, then what needs no room.
local worker, answers = cjson.decode(ARGV[1]), {}
local gone, gone_executions, leases, registered = {}, {}, {}, {}  -- written once for all jobs
local ended, counts, seconds, replies = {}, {}, 0, {}

local function add(lists, key, ...)
    lists[key] = lists[key] or {}
    for _, word in ipairs({...}) do table.insert(lists[key], word) end
end

-- Keeps all of a job's files, or none and returns the error. A file is its name and the place of its content in ARGV.
local function keep_files(job)
    for at, file in ipairs(job.files) do
        local answer = redis.pcall('SET', keys.artifact .. job.id .. ':' .. file[1], ARGV[file[2]], 'EX', job.ttl)
        if answer.err then
            for before = 1, at - 1 do redis.call('DEL', keys.artifact .. job.id .. ':' .. job.files[before][1]) end
            return answer.err
        end
    end
end

-- Adds the file that a process waits for to its reply, if it is small. `job.reply` is the process's channel and the file's name.
local function add_reply(job)
    local channel, name = string.match(job.reply, '^(%S+) (.+)$')
    for _, file in ipairs(job.files) do
        local content = ARGV[file[2]]
        if file[1] == name and #content <= worker.sent_at_most then
            replies[channel] = (replies[channel] or '') .. job.id .. ' ' .. #content .. ' ' .. content
        end
    end
end

-- Keeps a job's files if the worker still has it, and collects the keys and the lease that go.
local function release(job)
    local execution, status, current = job.id .. ':' .. job.execution_id
    job.key = keys.job .. job.id
    status, current, job.reply, job.eventful = unpack(redis.call('HMGET', job.key, 'status', 'execution', 'reply', 'eventful'))
    job.ours = status == 'started' and current == job.execution_id
    job.error = job.ours and keep_files(job)
    if job.error then return end
    table.insert(gone, keys.execution .. execution)
    table.insert(gone_executions, execution)
    add(leases, keys.started .. job.origin, execution)
    if job.ours then
        table.insert(gone, keys.executions .. job.id)
        table.insert(gone, keys.progress .. job.id)
    end
end

local function finish(job)
    if job.error then return job.error end
    if not job.ours then return 0 end
    redis.call('HSET', job.key, 'status', job.status, 'ended_at', worker.now, 'last_heartbeat', worker.now)
    redis.call('EXPIRE', job.key, job.ttl)
    settle(job.id, job.bytes, worker.unix + job.ttl)
    add(registered, keys[job.registry] .. job.origin, worker.unix + job.ttl, job.id)
    redis.call('XADD', keys.results .. job.id, 'MAXLEN', 10, '*', unpack(job.result))
    redis.call('EXPIRE', keys.results .. job.id, job.ttl)
    counts[job.counter] = (counts[job.counter] or 0) + 1
    seconds = seconds + job.seconds
    if job.eventful then redis.call('EXPIRE', keys.events .. job.id, job.ttl) end
    if job.reply then add_reply(job) end
    table.insert(ended, job.id)
    return 1
end

local function count_in_worker()
    for counter, count in pairs(counts) do redis.call('HINCRBY', worker.key, counter, count) end
    if seconds > 0 then redis.call('HINCRBYFLOAT', worker.key, 'total_working_time', string.format('%.6f', seconds)) end
end

local jobs = cjson.decode(ARGV[2])
for _, job in ipairs(jobs) do release(job) end
redis.call('ZREM', keys.offers, worker.name)  -- where no file was kept, the first write: from here on nothing is refused
for registry, executions in pairs(leases) do many(executions, 'ZREM', registry) end
many(gone, 'DEL')
many(gone_executions, 'SREM', worker.executions)
for place, job in ipairs(jobs) do answers[place] = finish(job) end
for registry, scores in pairs(registered) do many(scores, 'ZADD', registry) end
count_in_worker()
for channel, content in pairs(replies) do redis.call('PUBLISH', channel, content) end
if #ended > 0 then redis.call('PUBLISH', keys.ended, table.concat(ended, ' ')) end
local waiting = 0
for _, queue in ipairs(worker.queues or {}) do waiting = waiting + redis.call('LLEN', queue) end
table.insert(answers, leave_offer(worker, ARGV[1], worker.room or 0, waiting))
return answers
