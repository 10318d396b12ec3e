-- include: kept
-- Replaces what a job was expected to leave by the bytes it left, kept until `ends`.
local function settle(id, bytes, ends)
    local expected, caller = unpack(redis.call('HMGET', keys.job .. id, 'kept', 'caller'))
    if not expected then return end
    forget_kept(id .. ' ' .. expected .. ' ' .. (caller or ''))
    keep(id, caller or '', bytes, ends)
    redis.call('HSET', keys.job .. id, 'kept', bytes)
end
