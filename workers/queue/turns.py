"""Whose queued job is taken next: the Lua that gives a job its turn when it is queued, and the one that takes jobs in that order.

A worker that has taken all there is and has room for more leaves an offer: a submission then takes for it, in the same step that queues
the job, and sends it what it took. So it has a job a round trip earlier; what becomes of a message nobody hears, RETURN settles.

Within a queue, callers take turns (start-time fair queueing, as in `scheduler`, over whole jobs): a job's turn is the later of the turn
the queue has come to and its caller's own, and moves its caller's on by the chain-steps it costs. Between the queues, the job goes first
that came first, where one of `normal` counts as if it had come AGEING_S later than it did and one of `low` twice as much: so none starves.

Per queue a sorted set holds the turns of its jobs, another those of the callers who are ahead of the turn it has come to, a third those of
quick jobs alone, so that a look finds them however many others are before them; all go when the queue is empty. RQ's own list stays the
truth: what is not in it is not taken, and what RQ put into it by itself gets a turn when seen.
"""

AGEING_S = 30.0
OFFER_S = 2.0  # for which a worker that waits is taken to be there; it looks, and offers anew, more often than that

# Leases and offers run by the clock of Redis: those of the workers need not agree.
CLOCK = """
local function clock()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
"""

# One command for many words: Lua hands over a few thousand at most.
MANY = """
local function many(words, ...)
    for first = 1, #words, 1000 do
        local call = {...}
        for at = first, math.min(first + 999, #words) do table.insert(call, words[at]) end
        redis.call(unpack(call))
    end
end
"""

# Starts jobs for a worker, one by one with `start`; what can be written for all of them together is written by `tell`, which gives the
# message that tells of them, if any. Who calls `start` writes the job's own record before, and its events. RQ's list of a job's executions
# comes with the first sign of life, as most jobs are over by then.
STARTING = """
local function starting(g)
    local heads, contents, composites, leases = {}, {}, {}, {}
    local starts, now = {}, clock()

    local function next_id()
        return g.execution .. string.format('%03x', #heads)
    end

    -- What the record of the next job says once it is started.
    function starts.record()
        return {'status', 'started', 'started_at', g.now, 'last_heartbeat', g.now, 'worker_name', g.worker, 'cost', 0,
            'execution', next_id()}
    end

    function starts.start(origin, id, created_at, expires_at, cancel_requested, data)
        local execution_id = next_id()
        local composite = id .. ':' .. execution_id
        redis.call('HSET', p.execution .. composite, 'id', execution_id, 'job_id', id,
            'created_at', g.unix, 'last_heartbeat', g.unix, 'worker_name', g.worker)
        redis.call('EXPIRE', p.execution .. composite, g.lease)
        leases[origin] = leases[origin] or {}
        table.insert(leases[origin], now + g.lease)
        table.insert(leases[origin], composite)
        table.insert(composites, composite)
        table.insert(heads, {origin, id, execution_id, created_at, expires_at, cancel_requested, #data})
        table.insert(contents, data)
    end

    function starts.count()
        return #heads
    end

    function starts.tell()
        if #heads == 0 then return nil end
        for origin, of_queue in pairs(leases) do many(of_queue, 'ZADD', p.started .. origin) end
        many(composites, 'SADD', g.worker_executions)
        redis.call('EXPIRE', g.worker_executions, g.lease + 60)
        return cjson.encode({jobs = heads, unix = g.unix}) .. '\\n' .. table.concat(contents)
    end

    return starts
end
"""

# Gives a job its turn; true when nobody is before it, or its caller is new, so that a worker which left others behind may want it.
# Turns are whole numbers; the fraction puts jobs of the same turn in the order they came.
ENTER = """
local function enter(g, e)
    local origin, id, caller = e.origin, e.id, e.caller
    local turns, callers = p.turns .. origin, p.callers .. origin
    local now = tonumber(redis.call('HGET', p.turn, origin) or 0)
    local turn = math.max(now, tonumber(redis.call('ZSCORE', callers, caller) or 0))
    local place = turn + math.fmod(g.unix, 100000) / 100000
    redis.call('ZADD', callers, turn + e.cost, caller)
    redis.call('ZADD', turns, place, id)
    if e.quick then redis.call('ZADD', p.quick .. origin, place, id) end
    return turn == now or redis.call('ZRANK', turns, id) == 0
end
"""

# Takes jobs in turn. One that needs chains is taken while there is room; one that only decodes has room of its own, so that it never
# waits behind long chains. When there is no room, a few further jobs are taken: quick ones, and as many of callers who have none of that
# priority or a higher one waiting in the worker. Its scheduler finds them places, and those they went before keep their turns. Jobs past
# their deadline are taken in any case, to be ended.
# Popping and starting are one: a job is in its queue or in the registry of started ones.
TAKING = """
-- Leaves an offer of so much room, where there is some and nothing waits; `text` is what `g` was read from. An earlier one is void.
local function offer(g, text, room, left)
    if not g.offers or room <= 0 or left > 0 then
        redis.call('ZREM', p.offers, g.worker)
        return 0
    end
    redis.call('ZADD', p.offers, room, g.worker)
    redis.call('EXPIRE', p.offers, g.lease)
    redis.call('HSET', g.worker_key, 'offer', text, 'offered_at', clock(), 'decoding_room', g.decoding_room)
    return 1
end

-- Starts jobs; the message that tells of them, if any, how many still wait, and the room left for chains and images.
local function take(g)
    local room, decoding_room, further, quick, inside = g.room, g.decoding_room, g.further, g.further_quick, g.inside
    local starts, lines, left = starting(g), {}, 0

    local function start(origin, id, cost)
        local job = p.job .. id
        redis.call('HINCRBY', p.backlog, origin, 0 - tonumber(cost or 0))
        redis.call('HSET', job, unpack(starts.record()))
        redis.call('PERSIST', job)
        local data, created_at, expires_at, cancel_requested =
            unpack(redis.call('HMGET', job, 'data', 'created_at', 'expires_at', 'cancel_requested'))
        starts.start(origin, id, created_at, expires_at, cancel_requested, data or '')
        redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'started', 'data', g.started)
    end

    local function forget(origin)  -- whose turn it was: the queue is empty
        redis.call('HDEL', p.backlog, origin)
        redis.call('HDEL', p.turn, origin)
        redis.call('DEL', p.turns .. origin, p.callers .. origin, p.quick .. origin)
    end

    local function drop(line, id)
        redis.call('ZREM', line.turns, id)
        redis.call('ZREM', p.quick .. line.origin, id)
        local dropped = redis.call('LREM', line.queue, 1, id)
        line.waiting, left = line.waiting - dropped, left - dropped
        return dropped
    end

    -- Quick jobs that a look from the head of a line does not see.
    local function further_back(line)
        local seen, quick_ids = {}, redis.call('ZRANGE', p.quick .. line.origin, 0, g.look - 1, 'WITHSCORES')
        for at = 1, #line.ids, 2 do seen[line.ids[at]] = true end
        for at = 1, #quick_ids, 2 do
            if not seen[quick_ids[at]] then
                table.insert(line.ids, quick_ids[at])
                table.insert(line.ids, quick_ids[at + 1])
            end
        end
    end

    -- The next job of a line that still waits.
    local function head(line)
        while not line.head and line.ids[line.at] do
            local id = line.ids[line.at]
            local found = redis.call('HMGET', p.job .. id, 'status', 'chains', 'cost', 'decodes', 'caller', 'entered_at', 'expires_at')
            if found[1] == 'queued' then
                local chains = tonumber(found[2] or 1)
                line.head = {id = id, turn = math.floor(line.ids[line.at + 1]), chains = chains, cost = found[3],
                    ticks = (tonumber(found[3]) or math.huge) / chains,
                    decodes = found[4], caller = found[5] or '', place = line.place, due = tonumber(found[6] or 0) + line.ageing,
                    expired = found[7] and tonumber(found[7]) < tonumber(g.unix)}
            else
                drop(line, id)
            end
            line.at = line.at + 2
        end
        return line.head
    end

    local function wanted(job)
        if job.expired then return true end
        if job.decodes then
            if decoding_room <= 0 then return false end
            decoding_room = decoding_room - job.chains
            return true
        end
        if room > 0 then
            room = room - job.chains
            if room > 0 then return true end
        elseif job.ticks <= g.quick then
            quick = quick - 1
            return quick >= 0
        elseif further <= 0 or (inside[job.caller] or #g.queues + 1) <= job.place then
            return false
        else
            further = further - 1
        end
        inside[job.caller] = math.min(inside[job.caller] or job.place, job.place)
        return true
    end

    for place, queue in ipairs(g.queues) do
        local origin, waiting = string.sub(queue, #p.queue + 1), redis.call('LLEN', queue)
        local line = {origin = origin, place = place, queue = queue, turns = p.turns .. origin, at = 1, ids = {}, waiting = waiting}
        line.ageing = (place - 1) * g.ageing
        local turn = redis.call('HGET', p.turn, origin)
        line.now, left = tonumber(turn or 0), left + waiting
        if waiting == 0 then
            if turn or redis.call('EXISTS', p.callers .. origin) == 1 then forget(origin) end
        else
            if waiting ~= redis.call('ZCARD', line.turns) then
                for _, id in ipairs(redis.call('LRANGE', queue, 0, g.look - 1)) do redis.call('ZADD', line.turns, 'NX', line.now, id) end
            end
            line.ids = redis.call('ZRANGE', line.turns, 0, g.look - 1, 'WITHSCORES')
            if waiting > g.look and g.quick > 0 then further_back(line) end
            table.insert(lines, line)
        end
    end

    while starts.count() < g.most and (room > 0 or decoding_room > 0 or further > 0 or quick > 0) do
        local first
        for _, line in ipairs(lines) do
            if head(line) and (not first or line.head.due < first.head.due) then first = line end
        end
        if not first then break end
        local job = first.head
        first.head = nil
        if wanted(job) and drop(first, job.id) == 1 then
            start(first.origin, job.id, job.cost)
            first.now = math.max(first.now, job.turn)
            first.moved = true
        end
    end
    for _, line in ipairs(lines) do
        if line.moved and line.waiting == 0 then
            forget(line.origin)
        elseif line.moved then
            local next = redis.call('ZRANGE', line.turns, 0, 0, 'WITHSCORES')[2]  -- whom jobs out of turn went before
            line.now = math.min(line.now, math.floor(next or line.now))
            redis.call('HSET', p.turn, line.origin, line.now)
            redis.call('ZREMRANGEBYSCORE', p.callers .. line.origin, '-inf', line.now)
        end
    end
    return starts.tell(), left, room, decoding_room
end
"""

TAKE = (
    """
local p, g = NAMES, cjson.decode(ARGV[1])
"""
    + CLOCK
    + MANY
    + STARTING
    + TAKING
    + """
local taken, left, room = take(g)
if taken or g.offers then offer(g, ARGV[1], room, left) end
return taken
"""
)
