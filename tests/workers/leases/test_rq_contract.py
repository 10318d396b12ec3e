"""What this software takes for granted of RQ: another version has to fail here before it loses jobs.

`Leases` does what methods of RQ's do. Twin jobs go through both, and Redis must hold the same afterwards.
"""

import importlib.metadata
import inspect
import json
import re
import zlib
from base64 import b64decode

import pytest
from rq import Queue, Retry, SimpleWorker
from rq.executions import Execution, prepare_execution
from rq.job import Job
from rq.registry import BaseRegistry, StartedJobRegistry
from rq.results import Result
from rq.worker import BaseWorker, Worker

from workers.capacity import Room
from workers.jobs import Diagnostics, GenerateResult, Problem, Timings
from workers.leases.leases import Ended, Leases
from workers.queue import keys

SIGNATURES = {
    BaseWorker.bootstrap: "(self, logging_level, date_format, log_format)",
    BaseWorker.subscribe: "(self)",
    BaseWorker.handle_payload: "(self, message)",
    BaseWorker.teardown: "(self)",
    BaseWorker.heartbeat: "(self, timeout, pipeline)",
    BaseWorker.set_state: "(self, state, pipeline)",
    BaseWorker.serialize: "(self)",
    BaseWorker.request_stop: "(self, signum, frame)",
    BaseWorker._shutdown: "(self)",
    BaseWorker.get_heartbeat_ttl: "(self, job, working_time)",
    BaseWorker.handle_warm_shutdown_request: "(self)",
    BaseWorker.setup_work_horse_signals: "(self)",
    BaseWorker.handle_job_failure: "(self, job, queue, started_job_registry, exc_string, execution)",
    BaseWorker.handle_work_horse_killed: "(self, job, retpid, ret_val, rusage)",
    BaseWorker.cleanup_execution: "(self, job, pipeline, execution)",
    Worker.execute_job: "(self, job, queue)",
    StartedJobRegistry.cleanup: "(self, timestamp, exception_handlers)",
    BaseRegistry.__init__: "(self, name, connection, job_class, queue, serializer, death_penalty_class)",
    Execution.__init__: "(self, id, job_id, connection, worker_name)",
    prepare_execution: "(worker, job)",
    Queue.enqueue_many: "(self, job_datas, pipeline, group_id)",
    Job.restore: "(self, raw_data)",
    Result.serialize: "(self)",
    Result.restore: "(job_id, result_id, payload, connection, serializer)",
}
ANY_TIME = re.compile(rb"\d{4}-\d\d-\d\dT[\d:.]+Z|\d{10}(\.\d+)?")


def test_the_version_is_the_one_that_was_read():
    assert importlib.metadata.version("rq").startswith("3.0."), "read workers/leases and both workers against the new RQ"


@pytest.mark.parametrize("method", SIGNATURES, ids=lambda method: method.__qualname__)
def test_what_is_called_or_overridden_has_the_arguments_it_had(method):
    assert f"({', '.join(inspect.signature(method).parameters)})" == SIGNATURES[method]


def test_handlers_hear_of_an_abandoned_job_before_its_retry_is_counted(redis, broker, generate_job):
    job_id = broker.submit(generate_job())
    redis.lpop("rq:queue:generate")
    redis.hset(Job.key_for(job_id), "status", "started")
    redis.zadd("rq:wip:generate", {f"{job_id}:x": 1})
    heard = []
    registry = StartedJobRegistry("generate", redis, serializer="json")
    registry.cleanup(exception_handlers=[lambda job, kind, *rest: heard.append((job.retries_left, kind.__name__))])
    assert heard == [(1, "AbandonedJobError")]
    assert redis.lrange("rq:queue:generate", 0, -1) == [job_id.encode()]


@pytest.mark.parametrize("deadline_s", [None, 5.0])
def test_a_job_is_queued_as_rq_queues_one(redis, broker, generate_job, deadline_s):
    ours = broker.submit(job := generate_job(deadline_s=deadline_s))
    options = {"result_ttl": 60, "failure_ttl": 120, "job_timeout": 60, "retry": Retry(max=1, enqueue_at_front=True)}
    ttl = None if deadline_s is None else 66
    call = {"job": job.model_dump(mode="json")}
    theirs = _queue(redis).enqueue("workers.jobs.run", kwargs=call, ttl=ttl, description=job.describe(), **options).id
    found, expected = (redis.hgetall(Job.key_for(job_id)) for job_id in (ours, theirs))
    ours_alone = (keys.CHAINS, keys.COST, keys.CALLER, keys.ENTERED_AT, keys.EXPIRES_AT, keys.EVENTFUL, keys.KEPT_BYTES)
    added = {name.encode() for name in ours_alone}
    assert {name: _plain(name, value) for name, value in found.items() if name not in added} == {
        name: _plain(name, value) for name, value in expected.items()
    }
    assert redis.lrange("rq:queue:generate", 0, -1) == [ours.encode(), theirs.encode()]
    assert redis.ttl(Job.key_for(ours)) == redis.ttl(Job.key_for(theirs))
    assert redis.smembers("rq:queues") == {b"rq:queue:generate"}


def _plain(name: bytes, value: bytes) -> object:
    return json.loads(zlib.decompress(value)) if name == b"data" else ANY_TIME.sub(b"{time}", value)


def test_a_job_is_started_as_rq_starts_one_and_listed_among_executions_with_its_first_beat(redis, broker, generate_job):
    ours, theirs = broker.submit_many([generate_job(), generate_job()])
    worker = _worker(redis)
    leases = Leases(broker, worker.name, worker.key, 90)
    (taken,) = leases.take([_queue(redis)], Room(1, frozenset()))
    assert taken.id == ours
    job = Job.fetch(theirs, connection=redis, serializer="json")
    execution = worker.prepare_execution(job)
    worker.prepare_job_execution(job, remove_from_intermediate_queue=True)
    redis.lrem("rq:queue:generate", 1, theirs)
    started = _traces(redis, theirs, execution.id)
    assert started.pop(b"rq:executions:{job}") == [b"{execution}"]
    del started[b"mortal"][b"rq:executions:{job}"]
    assert _traces(redis, ours, taken.execution_id) == started
    assert leases.beat([taken], {}) == [1]
    assert _traces(redis, ours, taken.execution_id) == _traces(redis, theirs, execution.id)
    assert _traces(redis, ours, taken.execution_id)[b"execution:{job}:{execution}"]


def test_a_job_is_kept_alive_as_rq_keeps_one(redis, broker, generate_job):
    ours, theirs = broker.submit_many([generate_job(), generate_job()])
    worker = _worker(redis)
    leases = Leases(broker, worker.name, worker.key, 90)
    mine, other = leases.take([_queue(redis)], Room(9, frozenset()))
    assert leases.beat([mine, other], {}) == [1, 1]
    _age(redis, mine, other)
    assert leases.beat([mine], {}) == [1]
    job = Job.fetch(theirs, connection=redis, serializer="json")
    worker.job_monitoring_interval = 30
    BaseWorker.maintain_heartbeats(_Beating(worker), job, Execution.fetch(other.execution_id, theirs, redis))
    assert _traces(redis, ours, mine.execution_id) == _traces(redis, theirs, other.execution_id)
    assert redis.zscore("rq:wip:generate", f"{ours}:{mine.execution_id}") == pytest.approx(
        redis.zscore("rq:wip:generate", f"{theirs}:{other.execution_id}"), abs=2
    )


@pytest.mark.parametrize("fate", ["finished", "failed", "stopped"])
def test_a_job_is_ended_as_rq_ends_one(fate, redis, broker, generate_job):
    worker = _worker(redis)
    leases = Leases(broker, worker.name, worker.key, 90)
    ours, theirs = broker.submit_many([generate_job(), generate_job()])
    mine, other = leases.take([_queue(redis)], Room(9, frozenset()))
    reasons = {"failed": "diverged", "stopped": "canceled"}
    outcome = _result() if fate == "finished" else Problem(reason=reasons[fate], detail="so")
    ended = Ended(mine, outcome)
    assert leases.end([ended]) == [ended]
    job = Job.fetch(theirs, connection=redis, serializer="json")
    execution = Execution.fetch(other.execution_id, theirs, redis)
    if fate == "finished":
        worker._finalize_success(job, _queue(redis), execution, _result().model_dump(mode="json"))
    else:
        job.retries_left = 0
        worker._stopped_job_id = theirs if fate == "stopped" else None
        worker.handle_execution_ended(job, _queue(redis), 60)
        worker.handle_job_failure(job, _queue(redis), exc_string=f"{reasons[fate]}: so", execution=execution)
    redis.hset(Job.key_for(theirs), keys.KEPT_BYTES, redis.hget(Job.key_for(ours), keys.KEPT_BYTES))  # RQ does not know this field
    assert _traces(redis, ours, mine.execution_id) == _traces(redis, theirs, other.execution_id)
    counter = b"successful_job_count" if fate == "finished" else b"failed_job_count"
    assert redis.hget(worker.key, counter) == b"2"
    assert leases.end([ended]) == []


class _Beating:
    """A worker whose leases last 90 seconds, as in `Leases(..., 90)`."""

    def __init__(self, worker):
        self.__dict__.update(worker.__dict__)
        self.key, self.heartbeat, self.serialize = worker.key, worker.heartbeat, worker.serialize

    def get_heartbeat_ttl(self, job, working_time=0.0):
        return 90


def _worker(redis) -> SimpleWorker:
    worker = SimpleWorker([_queue(redis)], connection=redis, serializer="json")
    worker.log_job_description = False
    worker.register_birth()
    return worker


def _queue(redis) -> Queue:
    return Queue("generate", connection=redis, serializer="json")


def _result() -> GenerateResult:
    timings = Timings(queue_s=0, sampling_s=0, encoding_s=0)
    told = Diagnostics(exact=True, effective_temperature=1)
    return GenerateResult(artifacts=("0.png",), diagnostics=told, chains=(), timings=timings, worker="w", device="cpu")


def _age(redis, *jobs):
    """Makes leases look old, so that renewing them shows."""
    for job in jobs:
        redis.zadd("rq:wip:generate", {f"{job.id}:{job.execution_id}": 5})


def _traces(redis, job_id: str, execution_id: str) -> dict[bytes, object]:
    """All that RQ's keys hold of one job, with names, times and lengths of life replaced, so that twins compare equal."""

    def anonymous(value):
        value = value.replace(job_id.encode(), b"{job}").replace(execution_id.encode(), b"{execution}")
        return ANY_TIME.sub(b"{time}", value)

    own = [key for key in redis.scan_iter("rq:*") if job_id.encode() in key]
    hashes = {anonymous(key.removeprefix(b"rq:")): _hash(redis, key, anonymous) for key in own if redis.type(key) == b"hash"}
    streams = {anonymous(key): [_fields(entry, anonymous) for _, entry in redis.xrange(key)] for key in own if redis.type(key) == b"stream"}
    sets = {}
    for key in redis.scan_iter("rq:*"):
        kind = redis.type(key)
        members = redis.zrange(key, 0, -1) if kind == b"zset" else redis.smembers(key) if kind == b"set" else []
        sets[anonymous(key)] = [anonymous(m) for m in members if job_id.encode() in m or execution_id.encode() in m]
    mortal = {anonymous(key): redis.ttl(key) > 0 for key in own}
    return hashes | streams | {key: members for key, members in sets.items() if members} | {b"mortal": mortal}


# Ours alone, and what RQ writes where nobody reads it: a result in the hash beside the one in the stream, empty strings for nothing.
_IGNORED = {
    b"cost",
    b"chains",
    b"execution",
    b"success_callback_name",
    b"failure_callback_name",
    b"stopped_callback_name",
    b"group_id",
    b"retries_left",
}


def _fields(entry, anonymous):
    """A stream's entry; a result in it is read, so that spaces in its JSON do not matter."""
    return {field: json.loads(b64decode(value)) if field == b"return_value" else anonymous(value) for field, value in entry.items()}


def _hash(redis, key, anonymous):
    return {field: anonymous(value) for field, value in redis.hgetall(key).items() if value and field not in _IGNORED and field != b"data"}
