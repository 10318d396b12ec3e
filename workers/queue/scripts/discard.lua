-- include: settling
-- The files of a job that is over are gone: what is kept of it is its record, for as long as before.
local given = cjson.decode(ARGV[1])
local left = redis.call('TTL', keys.job .. given.id)
if left > 0 then settle(given.id, given.bytes, given.unix + left) end
