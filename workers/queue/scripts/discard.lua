-- include: settling
-- Counts only the record of a job whose files were deleted, until the record expires.
local given = cjson.decode(ARGV[1])
local left = redis.call('TTL', keys.job .. given.id)
if left > 0 then settle(given.id, given.bytes, given.unix + left) end
