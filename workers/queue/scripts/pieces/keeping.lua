-- include: kept
-- Whether what a job is expected to leave fits beside what is kept already.

-- Takes the bytes out of the sums that are gone by now, some at a time.
local function forget_old(unix)
    for _, word in ipairs(redis.call('ZRANGEBYSCORE', keys.kept, '-inf', unix, 'LIMIT', 0, 500)) do forget_kept(word) end
end

-- Nil where a job fits; otherwise whose bytes are too many, how many those are, and in how many seconds the next are gone.
local function too_much(job, limits, unix)
    local all, own = unpack(redis.call('HMGET', keys.kept_by, ' all', job.caller))
    local whose, bytes
    if tonumber(own or 0) + job.bytes > (job.most or limits.caller) then whose, bytes = 'caller', own end
    if tonumber(all or 0) + job.bytes > limits.all then whose, bytes = 'all', all end
    if not whose then return nil end
    local next_gone = redis.call('ZRANGE', keys.kept, 0, 0, 'WITHSCORES')[2] or unix
    return {whose, tonumber(bytes or 0), math.max(1, math.ceil(next_gone - unix))}
end
