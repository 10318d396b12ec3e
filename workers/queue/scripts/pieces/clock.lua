-- The time of Redis in Unix seconds. Leases and offers use it, so the clocks of the workers need not agree.
local function clock()
    local time = redis.call('TIME')
    return time[1] + time[2] / 1000000
end
