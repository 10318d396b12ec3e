-- include: clock requeueing
-- Returns jobs to their queue that Redis lists for a worker and the worker does not know: the answer or the message that brought them was
-- lost, or came when the worker could not run them any more. KEYS[1] lists its executions, ARGV[2] those it knows.
-- A job started just now may still be on its way. Returns how many jobs went back and how many may be on their way.
local given, known, returned, on_their_way = cjson.decode(ARGV[1]), {}, 0, 0

local function give_back(execution)
    local id = string.match(execution, '^(.*):')
    local origin, status = unpack(redis.call('HMGET', keys.job .. id, 'origin', 'status'))
    local lease_ends = tonumber(origin and redis.call('ZSCORE', keys.started .. origin, execution) or 0)
    if lease_ends > clock() + given.lease - given.on_its_way then
        on_their_way = on_their_way + 1
        return
    end
    redis.call('SREM', KEYS[1], execution)
    forget_execution(execution)
    if origin and redis.call('ZREM', keys.started .. origin, execution) == 1 and status == 'started' then
        requeue(given, {id = id, origin = origin, kept = given.kept}, {queue = origin})
        returned = returned + 1
    end
end

for _, execution in ipairs(cjson.decode(ARGV[2])) do known[execution] = true end
for _, execution in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if not known[execution] then give_back(execution) end
end
if returned > 0 then redis.call('PUBLISH', keys.submitted, '') end
return {returned, on_their_way}
