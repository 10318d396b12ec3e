"""Recovers jobs whose worker died, and jobs that were started for a worker and never reached it.

One script reads and requeues or fails them. RQ's own cleanup decides about a job after it has read it: a worker that comes back in between
would run and end its job twice.
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

from workers.jobs import RECORD_BYTES, Problem
from workers.jobs.generate import ALONE_QUEUE
from workers.queue import views
from workers.queue.broker import EVENTS_KEPT
from workers.queue.scripts import script

KEPT_S = 86400  # how long a failed job is kept that does not say how long


@dataclass
class Reclaimed:
    """Ids of jobs whose worker died, by what became of them."""

    requeued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)


def reclaim(redis: Redis, queues: Iterable[Queue]) -> Reclaimed:
    """Requeues or fails the jobs of these queues whose lease ran out."""
    registries = [StartedJobRegistry(queue=queue).key for queue in queues]
    reclaimed = Reclaimed()
    answers: Any = redis.register_script(script("reclaim"))(keys=registries, args=[json.dumps(_terms())])
    for job_id, fate in answers:
        (reclaimed.requeued if fate == b"requeued" else reclaimed.failed).append(job_id.decode())
    return reclaimed


class Undelivered(NamedTuple):
    """Numbers of jobs that were started for a worker and that it does not know."""

    returned: int  # to their queues
    on_their_way: int  # perhaps: they were started just now


def return_undelivered(redis: Redis, worker: str, known: Iterable[str], *, lease_s: float, on_its_way_s: float) -> Undelivered:
    """Requeues jobs that were started for a worker over `on_its_way_s` seconds ago and are not `known` to it (as `job:execution`).

    `lease_s` is how long the worker's leases last.
    """
    executions = Execution("", "", redis, worker).worker_executions_key
    terms = json.dumps(_terms() | {"lease": lease_s, "on_its_way": on_its_way_s})
    returned: Any = redis.register_script(script("return_undelivered"))(keys=[executions], args=[terms, json.dumps(list(known))])
    return Undelivered(*returned)


def _terms() -> dict[str, Any]:
    """The scripts' first argument."""
    unix = time.time()
    return {
        "unix": f"{unix:.6f}",
        "now": utcformat(datetime.fromtimestamp(unix, UTC)),
        "kept": KEPT_S,
        "bytes": RECORD_BYTES,
        "events_kept": EVENTS_KEPT,
        "alone": ALONE_QUEUE,
        "died_twice": _result(views.DIED_TWICE),
        "died_alone": _result("its worker died three times while running it, the last time with no other job beside it"),
    }


def _result(detail: str) -> list[str]:
    """RQ's record of a job that failed because its worker died, as fields and values in turn."""
    problem = Problem(reason="abandoned", detail=detail)
    reason = b64encode(zlib.compress(views.reason_text(problem).encode())).decode()
    return ["type", str(Result.Type.FAILED.value), "worker_name", "", "exc_string", reason]
