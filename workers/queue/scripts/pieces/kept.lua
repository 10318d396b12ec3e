-- How many bytes are kept of jobs: of each, what it is expected to leave, from its submission on, and from its end on what it left.
-- `keys.kept` has a word for each job, by the time at which its bytes are gone: its id, the bytes and the caller. `keys.kept_by` has the
-- sums by caller, and that of all in the field `all` with a space, which no caller's name begins with.

local function add_kept(caller, bytes)
    redis.call('HINCRBY', keys.kept_by, ' all', bytes)
    if redis.call('HINCRBY', keys.kept_by, caller, bytes) <= 0 then redis.call('HDEL', keys.kept_by, caller) end
end

local function keep(id, caller, bytes, ends)
    redis.call('ZADD', keys.kept, ends, id .. ' ' .. bytes .. ' ' .. caller)
    add_kept(caller, bytes)
end

-- Takes a job's bytes out of the sums; nothing where they are not in them.
local function forget_kept(word)
    if redis.call('ZREM', keys.kept, word) == 0 then return end
    local bytes, caller = string.match(word, '^%S+ (%S+) (.*)$')
    add_kept(caller, 0 - bytes)
end
