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
from typing import Any

from redis import Redis
from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import FailedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.utils import utcformat

from workers import keys, views
from workers.broker import EVENTS_KEPT
from workers.jobs import Problem

KEPT_S = 86400  # of a failure whose job does not say how long

# A job that has a try left goes to the front of its queue; one that has none ends.
RECLAIM = """
local p, g, found = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), {}

local function runs_elsewhere(origin, id)
    for _, execution_id in ipairs(redis.call('ZRANGE', p.executions .. id, 0, -1)) do
        local lease = redis.call('ZSCORE', p.started .. origin, id .. ':' .. execution_id)
        if lease and tonumber(lease) > tonumber(g.unix) then return true end
    end
end

local function tell(id, name, data, kept)
    redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', name, 'data', data)
    redis.call('EXPIRE', p.events .. id, kept)
end

local function put_back(origin, id, job, kept)
    redis.call('HINCRBY', job, 'retries_left', -1)
    redis.call('HSET', job, 'status', 'queued', 'enqueued_at', g.now)
    redis.call('LPUSH', p.queue .. origin, id)
    tell(id, 'queued', cjson.encode({queue = origin, retried = true}), kept)
    table.insert(found, {id, 'requeued'})
end

local function fail(origin, id, job, kept)
    redis.call('HSET', job, 'status', 'failed', 'ended_at', g.now)
    redis.call('EXPIRE', job, kept)
    redis.call('ZADD', p.failed .. origin, g.unix + kept, id)
    redis.call('XADD', p.results .. id, 'MAXLEN', 10, '*', unpack(g.result))
    redis.call('EXPIRE', p.results .. id, kept)
    tell(id, 'end', g.announced, kept)
    redis.call('DEL', p.progress .. id)
    redis.call('PUBLISH', p.ended, id)
    table.insert(found, {id, 'failed'})
end

local function reclaim(origin, composite)
    local id, execution_id = string.match(composite, '^(.*):([^:]*)$')
    local job = p.job .. id
    redis.call('ZREM', p.started .. origin, composite)
    redis.call('DEL', p.execution .. composite)
    redis.call('ZREM', p.executions .. id, execution_id)
    local status, tries, kept = unpack(redis.call('HMGET', job, 'status', 'retries_left', 'failure_ttl'))
    if status ~= 'started' or runs_elsewhere(origin, id) then return end
    if tonumber(tries or 0) > 0 then
        put_back(origin, id, job, tonumber(kept or g.kept))
    else
        fail(origin, id, job, tonumber(kept or g.kept))
    end
end

for _, started in ipairs(KEYS) do
    local origin = string.sub(started, #p.started + 1)
    for _, composite in ipairs(redis.call('ZRANGEBYSCORE', started, '-inf', g.unix)) do reclaim(origin, composite) end
end
if #found > 0 then redis.call('PUBLISH', g.submitted, '') end
return found
"""

# What the worker's own record lists and the worker does not know was taken by a call whose answer was lost on the way.
RETURN = """
local p, g, known, returned = cjson.decode(ARGV[1]), cjson.decode(ARGV[2]), {}, 0
for _, composite in ipairs(cjson.decode(ARGV[3])) do known[composite] = true end
for _, composite in ipairs(redis.call('SMEMBERS', KEYS[1])) do
    if not known[composite] then
        local id, execution_id = string.match(composite, '^(.*):([^:]*)$')
        local job = p.job .. id
        local origin, status = unpack(redis.call('HMGET', job, 'origin', 'status'))
        redis.call('SREM', KEYS[1], composite)
        redis.call('DEL', p.execution .. composite)
        redis.call('ZREM', p.executions .. id, execution_id)
        if origin and redis.call('ZREM', p.started .. origin, composite) == 1 and status == 'started' then
            redis.call('HSET', job, 'status', 'queued')
            redis.call('LPUSH', p.queue .. origin, id)
            redis.call('XADD', p.events .. id, 'MAXLEN', '~', g.events_kept, '*', 'name', 'queued', 'data', cjson.encode({queue = origin}))
            returned = returned + 1
        end
    end
end
if returned > 0 then redis.call('PUBLISH', g.submitted, '') end
return returned
"""


@dataclass
class Found:
    """Ids of jobs that had no worker any more, by their fate."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def reclaim(redis: Redis, queues: Iterable[Queue]) -> Found:
    """Ends or puts back, each in one step, the jobs whose lease ran out."""
    registries = [StartedJobRegistry(queue=queue).key for queue in queues]
    found = Found()
    answers: Any = redis.eval(RECLAIM, len(registries), *registries, _prefixes(redis), _now())
    for job_id, fate in answers:
        (found.requeued if fate == b"requeued" else found.failed).append(job_id.decode())
    return found


def return_unheard(redis: Redis, worker: str, known: Iterable[str]) -> int:
    """Puts back jobs that a worker took in Redis's eyes alone; `known` are those it has, as `job:execution`. Returns how many."""
    record = Execution("", "", redis, worker).worker_executions_key
    returned: Any = redis.eval(RETURN, 1, record, _prefixes(redis), _now(), json.dumps(list(known)))
    return int(returned)


def _prefixes(redis: Redis) -> str:
    """What the keys of a job or queue begin with, so that the scripts can build those of the jobs they find."""
    return json.dumps(
        {
            "queue": Queue.redis_queue_namespace_prefix,
            "job": Job.redis_job_namespace_prefix,
            "started": StartedJobRegistry.key_template.format(""),
            "failed": FailedJobRegistry.key_template.format(""),
            "executions": ExecutionRegistry.key_template.format(""),
            "execution": Execution("", "", redis).key.removesuffix(":"),
            "results": Result.get_key(""),  # type: ignore[no-untyped-call]
            "events": keys.events(""),
            "progress": keys.progress(""),
            "ended": keys.ENDED,
        }
    )


def _now() -> str:
    unix, problem = time.time(), Problem(reason="abandoned", detail="its worker died twice while running it")
    reason = b64encode(zlib.compress(views.reason_text(problem).encode())).decode()
    return json.dumps(
        {
            "unix": f"{unix:.6f}",
            "now": utcformat(datetime.fromtimestamp(unix, UTC)),
            "kept": KEPT_S,
            "events_kept": EVENTS_KEPT,
            "submitted": keys.SUBMITTED,
            "announced": json.dumps({"status": "failed"} | problem.model_dump()),
            "result": ["type", str(Result.Type.FAILED.value), "worker_name", "", "exc_string", reason],
        }
    )
