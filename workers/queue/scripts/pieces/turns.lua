-- The order in which queued jobs are taken.
--
-- Within a queue, callers take turns (start-time fair queueing over whole jobs). A job's turn is the later of the queue's current turn and
-- its caller's next one, and moves its caller's next turn on by the chain-steps that the job costs. Between the queues, the job that came
-- first goes first; a `normal` job counts as AGEING_S younger than it is and a `low` one as twice that, so no priority starves.
--
-- Each queue has three sorted sets, deleted when it is empty: `turns` has its jobs by turn; `quick` has the quick ones alone, so that they
-- are found however many others are before them; `callers` has the callers whose next turn is later than the current one.
-- RQ's list decides: a job that is not in it is not taken, and a job that RQ itself put there gets a turn when it is seen.

-- Gives a job its turn. True when it is the first in line or has the queue's current turn: a worker that could take none of the others may
-- want it. Turns are whole numbers; the fraction keeps jobs of one turn in the order they came.
local function give_turn(job, unix)
    local origin = job.origin
    local turns, callers = keys.turns .. origin, keys.callers .. origin
    local current = tonumber(redis.call('HGET', keys.turn, origin) or 0)
    local turn = math.max(current, tonumber(redis.call('ZSCORE', callers, job.caller) or 0))
    local place = turn + math.fmod(unix, 100000) / 100000
    redis.call('ZADD', callers, turn + job.cost, job.caller)
    redis.call('ZADD', turns, place, job.id)
    if job.quick then redis.call('ZADD', keys.quick .. origin, place, job.id) end
    return turn == current or redis.call('ZRANK', turns, job.id) == 0
end

local function remove_turn(origin, id)
    redis.call('ZREM', keys.turns .. origin, id)
    redis.call('ZREM', keys.quick .. origin, id)
end

-- Starts a queue anew once it is empty.
local function forget_turns(origin)
    redis.call('HDEL', keys.backlog, origin)
    redis.call('HDEL', keys.turn, origin)
    redis.call('DEL', keys.turns .. origin, keys.callers .. origin, keys.quick .. origin)
end
