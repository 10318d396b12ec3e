"""Jobs whose worker is gone, and jobs that a worker took without hearing of it: each gets its next chance, or its end, in one step.

RQ's own cleanup reads a job and decides about it later; a worker that comes back in between would have its job run and end twice.
"""

import json
import time
import zlib
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple

from redis import Redis
from rq import Queue
from rq.executions import Execution
from rq.registry import StartedJobRegistry
from rq.results import Result
from rq.utils import utcformat

from workers.jobs import Problem
from workers.jobs.generate import ALONE_QUEUE
from workers.queue import views
from workers.queue.broker import EVENTS_KEPT
from workers.queue.script_names import named
from workers.queue.turns import CLOCK

KEPT_S = 86400  # of a failure whose job does not say how long

# A job that has a try left goes to the front of its queue. One that has none ends where it alone can have killed its worker; where others
# ran beside it, it goes to the queue of those that run alone.
RECLAIM = (
    """
local p, g, found = NAMES, cjson.decode(ARGV[1]), {}
local lost, ran = {}, {}  -- jobs without a worker; how many of them each worker ran
"""
    + CLOCK
    + """
local now = clock()

local function runs_elsewhere(origin, id)
    local execution = redis.call('HGET', p.job .. id, 'execution')
    local lease = execution and redis.call('ZSCORE', p.started .. origin, id .. ':' .. execution)
    return lease and tonumber(lease) > now
end

local function put_back(origin, id, job, kept)
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', g.now, 'eventful', 1)
    redis.call('LPUSH', p.queue .. origin, id)
    local data = cjson.encode({queue = origin, retried = true})
    redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'queued', 'data', data)
    redis.call('EXPIRE', p.events .. id, kept)
    table.insert(found, {id, 'requeued'})
end

local function quarantine(id, job, kept)
    redis.call('SADD', p.queues, p.queue .. g.alone)
    redis.call('ZADD', p.turns .. g.alone, now, id)
    redis.call('HSET', job, 'origin', g.alone)
    put_back(g.alone, id, job, kept)
end

local function fail(origin, id, job, kept)
    local result = origin == g.alone and g.died_alone or g.died_twice
    redis.call('HSET', job, 'status', 'failed', 'ended_at', g.now)
    redis.call('EXPIRE', job, kept)
    redis.call('ZADD', p.failed .. origin, g.unix + kept, id)
    redis.call('XADD', p.results .. id, 'MAXLEN', 10, '*', unpack(result))
    redis.call('EXPIRE', p.results .. id, kept)
    redis.call('EXPIRE', p.events .. id, kept)
    redis.call('DEL', p.progress .. id)
    redis.call('PUBLISH', p.ended, id)
    table.insert(found, {id, 'failed'})
end

-- Lets go of an execution, and notes its job as lost unless somebody else runs it.
local function drop(started, composite)
    local id, execution_id = string.match(composite, '^(.*):([^:]*)$')
    redis.call('ZREM', started, composite)
    redis.call('DEL', p.execution .. composite)
    redis.call('ZREM', p.executions .. id, execution_id)
    local status, origin, worker = unpack(redis.call('HMGET', p.job .. id, 'status', 'origin', 'worker_name'))
    if status ~= 'started' or runs_elsewhere(origin, id) then return end
    worker = worker or ''
    ran[worker] = (ran[worker] or 0) + 1
    table.insert(lost, {id = id, origin = origin, worker = worker})
end

local function reclaim(id, origin, worker)
    local job = p.job .. id
    local tries, kept = unpack(redis.call('HMGET', job, 'retries_left', 'failure_ttl'))
    kept = tonumber(kept or g.kept)
    if tonumber(tries or 0) > 0 then
        redis.call('HINCRBY', job, 'retries_left', -1)
        put_back(origin, id, job, kept)
    elseif ran[worker] > 1 then
        quarantine(id, job, kept)
    else
        fail(origin, id, job, kept)
    end
end

for _, started in ipairs(KEYS) do
    for _, composite in ipairs(redis.call('ZRANGEBYSCORE', started, '-inf', now)) do drop(started, composite) end
end
-- A worker keeps all its jobs alive at once, so one that has lost a job has lost them all; those it took last have the later leases.
for _, started in ipairs(next(ran) and KEYS or {}) do
    for _, composite in ipairs(redis.call('ZRANGE', started, 0, -1)) do
        if ran[redis.call('HGET', p.execution .. composite, 'worker_name') or ''] then drop(started, composite) end
    end
end
for _, job in ipairs(lost) do reclaim(job.id, job.origin, job.worker) end
if #found > 0 then redis.call('PUBLISH', p.submitted, '') end
return found
"""
)

# What the worker's own record lists and the worker does not know was taken by a call whose answer was lost on the way, or handed over in
# a message that was, or that came when the worker could not have it any more.
# One that was started just now may still be on its way; the second answer is how many such there are.
RETURN = (
    """
local p, g, known, returned, young = NAMES, cjson.decode(ARGV[1]), {}, 0, 0
"""
    + CLOCK
    + """
local function give_back(id, execution_id, composite)
    local job = p.job .. id
    local origin, status = unpack(redis.call('HMGET', job, 'origin', 'status'))
    local ends = tonumber(origin and redis.call('ZSCORE', p.started .. origin, composite) or 0)
    if ends > clock() + g.lease - g.on_its_way then
        young = young + 1
        return
    end
    redis.call('SREM', KEYS[1], composite)
    redis.call('DEL', p.execution .. composite)
    redis.call('ZREM', p.executions .. id, execution_id)
    if origin and redis.call('ZREM', p.started .. origin, composite) == 1 and status == 'started' then
        redis.call('HSET', job, 'status', 'queued', 'eventful', 1)
        redis.call('LPUSH', p.queue .. origin, id)
        redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'queued', 'data', cjson.encode({queue = origin}))
        redis.call('EXPIRE', p.events .. id, g.kept)
        returned = returned + 1
    end
end

for _, composite in ipairs(cjson.decode(ARGV[2])) do known[composite] = true end
for _, composite in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if not known[composite] then
        local id, execution_id = string.match(composite, '^(.*):([^:]*)$')
        give_back(id, execution_id, composite)
    end
end
if returned > 0 then redis.call('PUBLISH', p.submitted, '') end
return {returned, young}
"""
)


@dataclass
class Found:
    """Ids of jobs that had no worker any more, by their fate."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def reclaim(redis: Redis, queues: Iterable[Queue]) -> Found:
    """Ends or puts back, each in one step, the jobs whose lease ran out."""
    registries = [StartedJobRegistry(queue=queue).key for queue in queues]
    found = Found()
    answers: Any = redis.eval(named(RECLAIM), len(registries), *registries, json.dumps(_now()))
    for job_id, fate in answers:
        (found.requeued if fate == b"requeued" else found.failed).append(job_id.decode())
    return found


class Unheard(NamedTuple):
    """Jobs that Redis takes a worker to run and that it does not know."""

    returned: int
    on_their_way: int  # perhaps: they were started just now


def return_unheard(redis: Redis, worker: str, known: Iterable[str], *, lease_s: float, on_its_way_s: float) -> Unheard:
    """Puts back jobs that a worker took in Redis's eyes alone, those of the last `on_its_way_s` excepted; `known` is what it has.

    These are given as `job:execution`. `lease_s` is the worker's.
    """
    record = Execution("", "", redis, worker).worker_executions_key
    about = json.dumps(_now() | {"lease": lease_s, "on_its_way": on_its_way_s})
    returned: Any = redis.eval(named(RETURN), 1, record, about, json.dumps(list(known)))
    return Unheard(*returned)


def _now() -> dict[str, Any]:
    unix = time.time()
    return {
        "unix": f"{unix:.6f}",
        "now": utcformat(datetime.fromtimestamp(unix, UTC)),
        "kept": KEPT_S,
        "events_kept": EVENTS_KEPT,
        "alone": ALONE_QUEUE,
        "died_twice": _result(views.DIED_TWICE),
        "died_alone": _result("its worker died three times while running it, the last time with no other job beside it"),
    }


def _result(detail: str) -> list[str]:
    """RQ's record of such an end, flat."""
    problem = Problem(reason="abandoned", detail=detail)
    reason = b64encode(zlib.compress(views.reason_text(problem).encode())).decode()
    return ["type", str(Result.Type.FAILED.value), "worker_name", "", "exc_string", reason]
