"""The names in Redis: our keys and channels, the fields we add to RQ's job hash, and what the Lua scripts need of RQ's keys and ours."""

from redis import Redis
from rq import Queue, Worker
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result

PREFIX = "ebbtide"

RECENT = f"{PREFIX}:recent"  # sorted set: job ids by creation
BACKLOG = f"{PREFIX}:backlog"  # hash: queue -> chain-steps that wait in it
KEPT = f"{PREFIX}:kept"  # sorted set: the bytes kept of each job, by the time at which they are gone, see scripts/pieces/kept.lua
KEPT_BY = f"{PREFIX}:kept-by"  # hash: the sums of those bytes, by caller and of all
KEPT_BY_ALL = " all"  # its field of all
ACCESS = f"{PREFIX}:access"  # hash: SHA-256 of an API key's secret -> what it may do, as JSON, see access.py
TURN = f"{PREFIX}:turn"  # hash: queue -> its current turn, see scripts/pieces/turns.lua
MAINTENANCE = f"{PREFIX}:maintenance"  # lock: one worker at a time looks for abandoned jobs
SUBMITTED = f"{PREFIX}:submitted"  # channel: a job waits that a worker may want
PROBE = f"{PREFIX}:probe"  # string, for a second: written to see whether Redis accepts writes
OFFERS = f"{PREFIX}:offers"  # sorted set: workers that wait for jobs, by the number of chains they have room for
ENDED = f"{PREFIX}:ended"  # channel: ids of jobs that have ended, separated by spaces
REPLIES = f"{PREFIX}:replies"  # prefix of a channel for each process that waits for images: their bytes, see completions.py

# Fields in RQ's job hash; RQ keeps fields that it does not know.
CHAINS = "chains"  # number of images the job makes
COST = "cost"  # chain-steps, 0 once the job no longer waits
WORK = "tflop"  # floating-point operations of a training worker, in 10^12; absent where a job needs none
DECODES = "decodes"  # present when the job runs no chain: `prior`
EXPIRES_AT = "expires_at"  # Unix seconds; absent without a deadline
CALLER = "caller"  # who submitted it
REPLY = "reply"  # a channel, a space and a file's name: the file is sent there when the job ends; absent when no request waits
KEPT_BYTES = "kept"  # bytes that the job is expected to leave, from its end on those it left
ENTERED_AT = "entered_at"  # Unix seconds of the submission
CANCEL_REQUESTED = "cancel_requested"  # set when a started job was canceled; survives the worker
EXECUTION = "execution"  # id of the job's current or last execution
BEGAN = "began"  # queue and worker of a job that started as it was submitted; stands for its first two events
EVENTFUL = "eventful"  # present when the job has a stream of events


def turns(queue: str) -> str:
    """Sorted set: jobs that wait in a queue, by turn."""
    return f"{PREFIX}:turns:{queue}"


def quick(queue: str) -> str:
    """Sorted set: the quick ones among them, by turn."""
    return f"{PREFIX}:quick:{queue}"


def record(queue: str) -> str:
    """Hash: the fields that all jobs of a queue have in common; exists only while `submit` copies it."""
    return f"{PREFIX}:record:{queue}"


def callers(queue: str) -> str:
    """Sorted set: callers of a queue by their next turn, where that is later than the current one."""
    return f"{PREFIX}:callers:{queue}"


def assigned(worker: str) -> str:
    """Channel: jobs that a submission started for a worker that had offered room."""
    return f"{PREFIX}:assigned:{worker}"


def events(job_id: str) -> str:
    """Stream: a job's events, except its end and what `BEGAN` stands for; the job hash has those."""
    return f"{PREFIX}:events:{job_id}"


def progress(job_id: str) -> str:
    """String: how far a running job is, as JSON."""
    return f"{PREFIX}:progress:{job_id}"


def artifact(job_id: str, name: str) -> str:
    """String: the bytes of a file that a job made."""
    return f"{PREFIX}:artifact:{job_id}:{name}"


# The table `keys` of the Lua scripts: whole keys, and prefixes that a queue, a job, an execution or a worker completes.
SCRIPT_KEYS = {
    "queues": Queue.redis_queues_keys,
    "queue": Queue.redis_queue_namespace_prefix,
    "job": Job.redis_job_namespace_prefix,
    "worker": Worker.redis_worker_namespace_prefix,
    "started": StartedJobRegistry.key_template.format(""),
    "canceled": CanceledJobRegistry.key_template.format(""),
    "finished": FinishedJobRegistry.key_template.format(""),
    "failed": FailedJobRegistry.key_template.format(""),
    "executions": ExecutionRegistry.key_template.format(""),
    "execution": Execution("", "", Redis()).key.removesuffix(":"),
    "results": Result.get_key(""),  # type: ignore[no-untyped-call]
    "events": events(""),
    "progress": progress(""),
    "artifact": artifact("", "").removesuffix(":"),
    "assigned": assigned(""),
    "turn": TURN,
    "turns": turns(""),
    "callers": callers(""),
    "quick": quick(""),
    "record": record(""),
    "backlog": BACKLOG,
    "recent": RECENT,
    "offers": OFFERS,
    "kept": KEPT,
    "kept_by": KEPT_BY,
    "submitted": SUBMITTED,
    "ended": ENDED,
}
