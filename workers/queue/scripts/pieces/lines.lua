-- include: turns
-- A line: the jobs at the head of one queue in the order of their turns, read as far as one look goes.

-- Adds the quick jobs that stand too far back in the queue to be seen from its head.
local function add_quick_jobs(line, look)
    local seen, quick = {}, redis.call('ZRANGE', keys.quick .. line.origin, 0, look - 1, 'WITHSCORES')
    for at = 1, #line.turns, 2 do seen[line.turns[at]] = true end
    for at = 1, #quick, 2 do
        if not seen[quick[at]] then
            table.insert(line.turns, quick[at])
            table.insert(line.turns, quick[at + 1])
        end
    end
end

-- The line of the queue at that place among those the worker serves; nil where nothing waits.
local function read_line(worker, place)
    local queue = worker.queues[place]
    local origin, waiting = string.sub(queue, #keys.queue + 1), redis.call('LLEN', queue)
    local current = redis.call('HGET', keys.turn, origin)
    if waiting == 0 then
        if current or redis.call('EXISTS', keys.callers .. origin) == 1 then forget_turns(origin) end
        return nil
    end
    local line = {queue = queue, origin = origin, place = place, waiting = waiting, current = tonumber(current or 0), at = 1}
    local turns = keys.turns .. origin
    if waiting ~= redis.call('ZCARD', turns) then  -- RQ itself has put jobs there
        for _, id in ipairs(redis.call('LRANGE', queue, 0, worker.look - 1)) do redis.call('ZADD', turns, 'NX', line.current, id) end
    end
    line.turns = redis.call('ZRANGE', turns, 0, worker.look - 1, 'WITHSCORES')
    if waiting > worker.look and worker.quick > 0 then add_quick_jobs(line, worker.look) end
    return line
end

-- Takes a job out of its queue; false when it was not there.
local function remove_from_line(line, id)
    remove_turn(line.origin, id)
    local removed = redis.call('LREM', line.queue, 1, id)
    line.waiting = line.waiting - removed
    return removed == 1
end

-- A job that waits, from its id, its turn and the fields of its hash.
local function waiting_job(worker, line, id, turn, fields)
    local _, chains, cost, decodes, caller, entered_at, expires_at = unpack(fields)
    chains = tonumber(chains or 1)
    return {
        id = id, turn = math.floor(turn), place = line.place, chains = chains, cost = tonumber(cost or 0), decodes = decodes,
        ticks = (tonumber(cost) or math.huge) / chains, caller = caller or '',
        due = tonumber(entered_at or 0) + (line.place - 1) * worker.ageing,
        expired = expires_at and tonumber(expires_at) < tonumber(worker.unix),
    }
end

-- The next job of a line; nil at its end. Jobs that do not wait any more are removed.
local function next_job(worker, line)
    while not line.job and line.turns[line.at] do
        local id, turn = line.turns[line.at], line.turns[line.at + 1]
        local fields = redis.call('HMGET', keys.job .. id, 'status', 'chains', 'cost', 'decodes', 'caller', 'entered_at', 'expires_at')
        if fields[1] == 'queued' then
            line.job = waiting_job(worker, line, id, turn, fields)
        else
            remove_from_line(line, id)
        end
        line.at = line.at + 2
    end
    return line.job
end

-- Moves the queue's current turn on after jobs were taken, but past no job that still waits: jobs taken out of turn move nothing.
local function move_current_turn(line)
    if line.waiting == 0 then return forget_turns(line.origin) end
    local next_turn = redis.call('ZRANGE', keys.turns .. line.origin, 0, 0, 'WITHSCORES')[2]
    line.current = math.min(line.current, math.floor(next_turn or line.current))
    redis.call('HSET', keys.turn, line.origin, line.current)
    redis.call('ZREMRANGEBYSCORE', keys.callers .. line.origin, '-inf', line.current)
end
