"""What the keys of RQ and ours begin with, for the Lua scripts, which build those of the jobs and workers they find."""

import json

from redis import Redis
from rq import Queue, Worker
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result

from workers.queue import keys

NAMES = {
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
    "events": keys.events(""),
    "progress": keys.progress(""),
    "artifact": keys.artifact("", "").removesuffix(":"),
    "handed": keys.handed(""),
    "turn": keys.TURN,
    "turns": keys.turns(""),
    "callers": keys.callers(""),
    "quick": keys.quick(""),
    "record": keys.record(""),
    "backlog": keys.BACKLOG,
    "recent": keys.RECENT,
    "offers": keys.OFFERS,
    "submitted": keys.SUBMITTED,
    "ended": keys.ENDED,
}


def named(script: str) -> str:
    """A script with its NAMES, as a table of Lua's: sent with every call, they were a good part of its time."""
    return script.replace("NAMES", "{" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in NAMES.items()) + "}")
