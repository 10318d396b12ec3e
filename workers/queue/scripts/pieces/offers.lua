-- include: clock
-- Offers: a worker that has taken everything and has room left offers it. A submission then starts jobs for this worker and sends them, so
-- that it has them one round trip earlier. Jobs whose message is lost go back to their queue by `return_undelivered`.

-- Leaves the worker's offer of so much room for chains, where there is some and no job waits, and voids the one before. `text` is the JSON
-- that `worker` was read from. Returns 1 where an offer stands, 0 where none does.
local function leave_offer(worker, text, room, left)
    if not worker.offers or room <= 0 or left > 0 then
        redis.call('ZREM', keys.offers, worker.name)
        return 0
    end
    redis.call('ZADD', keys.offers, room, worker.name)
    redis.call('EXPIRE', keys.offers, worker.lease)
    redis.call('HSET', worker.key, 'offer', text, 'offered_at', clock(), 'decoding_room', worker.decoding_room)
    return 1
end

-- The worker with the most room whose offer is fresh and who listens; nil without one. `lasts` is how long an offer stays fresh, in seconds.
local function best_offer(lasts)
    while true do
        local name, room = unpack(redis.call('ZPOPMAX', keys.offers))
        if not name then return nil end
        local text, since, decoding_room = unpack(redis.call('HMGET', keys.worker .. name, 'offer', 'offered_at', 'decoding_room'))
        if text and clock() - since < lasts and redis.call('PUBSUB', 'NUMSUB', keys.assigned .. name)[2] > 0 then
            local worker = cjson.decode(text)
            worker.room, worker.decoding_room = tonumber(room), tonumber(decoding_room)
            return worker
        end
    end
end

-- Whether a worker has room for all these jobs and nothing else waits for it; with the room that is left for chains and for images.
local function has_room(worker, jobs)
    local room, decoding_room = worker.room, worker.decoding_room
    for _, job in ipairs(jobs) do
        if job.cost == 0 then return false end  -- a training job
        if job.decodes then decoding_room = decoding_room - job.chains else room = room - job.chains end
    end
    if room < 0 or decoding_room < 0 then return false end
    for _, queue in ipairs(worker.queues) do
        if redis.call('EXISTS', queue) == 1 then return false end
    end
    return true, room, decoding_room
end

-- Sends a worker the message with the jobs started for it, if any; its offer stands for the room left.
local function send_jobs(worker, message, room, decoding_room)
    if message then redis.call('PUBLISH', keys.assigned .. worker.name, message) end
    if decoding_room < worker.decoding_room then redis.call('HSET', worker.key, 'decoding_room', decoding_room) end
    if room > 0 and decoding_room > 0 then redis.call('ZADD', keys.offers, room, worker.name) end
end
