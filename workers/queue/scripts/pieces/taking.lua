-- include: starting lines
-- Takes jobs from their queues in turn and starts them in the same step: at any time a job is either queued or started.
--
-- A job with chains is taken while there is room for chains, a job that only decodes while there is room for images, so it never waits
-- behind long chains. When the room is used up, a few further jobs are taken for the worker's scheduler to place: quick jobs, and jobs of
-- callers who have none of the same or a higher priority waiting in the worker. Jobs past their deadline are always taken, to be ended.

-- The room for chains, claimed by a job; false where it has to stay in its queue.
local function claim_room_for_chains(search, job)
    local worker, inside = search.worker, search.inside[job.caller]
    if search.room > 0 then
        search.room = search.room - job.chains
        if search.room > 0 then return true end
    elseif job.ticks <= worker.quick then
        search.further_quick = search.further_quick - 1
        return search.further_quick >= 0
    elseif search.further <= 0 or (inside or #worker.queues + 1) <= job.place then
        return false
    else
        search.further = search.further - 1
    end
    search.inside[job.caller] = math.min(inside or job.place, job.place)
    return true
end

local function claim_room(search, job)
    if job.expired then return true end
    if not job.decodes then return claim_room_for_chains(search, job) end
    if search.decoding_room <= 0 then return false end
    search.decoding_room = search.decoding_room - job.chains
    return true
end

local function is_full(search)
    local no_room = search.room <= 0 and search.decoding_room <= 0 and search.further <= 0 and search.further_quick <= 0
    return no_room or #search.starts.jobs >= search.worker.most
end

-- The line whose next job has waited longest, by the count of its priority; nil when nothing more waits.
local function first_line(search)
    local first
    for _, line in ipairs(search.lines) do
        if next_job(search.worker, line) and (not first or line.job.due < first.job.due) then first = line end
    end
    return first
end

local function start_queued(search, line, job)
    local key, worker = keys.job .. job.id, search.worker
    redis.call('HINCRBY', keys.backlog, line.origin, 0 - job.cost)  -- minus zero would be no integer
    redis.call('HSET', key, unpack(started_fields(search.starts)))
    redis.call('PERSIST', key)
    local data, created_at, expires_at, cancel_requested =
        unpack(redis.call('HMGET', key, 'data', 'created_at', 'expires_at', 'cancel_requested'))
    start_job(search.starts, {origin = line.origin, id = job.id, created_at = created_at, expires_at = expires_at,
        cancel_requested = cancel_requested, data = data or ''})
    redis.call('XADD', keys.events .. job.id, 'MAXLEN', '~', worker.events_kept, '*', 'name', 'started', 'data', worker.started)
    line.current, line.moved = math.max(line.current, job.turn), true
end

-- Starts jobs for a worker; returns the message with them (nil without any), how many jobs still wait, and the room left for chains and
-- for images.
local function take(worker)
    local search = {worker = worker, starts = new_starts(worker), lines = {}, room = worker.room, decoding_room = worker.decoding_room,
        further = worker.further, further_quick = worker.further_quick, inside = worker.inside}
    for place = 1, #worker.queues do table.insert(search.lines, read_line(worker, place)) end
    while not is_full(search) do
        local line = first_line(search)
        if not line then break end
        local job = line.job
        line.job = nil
        if claim_room(search, job) and remove_from_line(line, job.id) then start_queued(search, line, job) end
    end
    local left = 0
    for _, line in ipairs(search.lines) do
        left = left + line.waiting
        if line.moved then move_current_turn(line) end
    end
    return finish_starting(search.starts), left, search.room, search.decoding_room
end
