-- include: taking offers
-- Takes jobs for a worker and leaves its offer of the room left. Returns the message with the jobs, nil without any.
local worker = cjson.decode(ARGV[1])
local message, left, room = take(worker)
if message or worker.offers then leave_offer(worker, ARGV[1], room, left) end
return message
