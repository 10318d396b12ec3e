"""Starts, keeps alive and ends many RQ jobs at once: each job one atomic script, each call one round trip, RQ's own records true.

The scripts do in three commands a job what RQ's `prepare_execution`, `prepare_job_execution`, `maintain_heartbeats`, `handle_job_success`
and `handle_job_failure` do in about sixty.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from rq import Queue
from rq.executions import Execution, ExecutionRegistry
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from workers import keys, views
from workers.broker import EVENTS_KEPT, Broker
from workers.jobs import GenerateJob, GenerateResult, Problem, Progress
from workers.rq_scripts import BEAT, END, TAKE

LOOKED_AT = 128  # jobs from the head of each queue that one pop considers
LOST, OURS, STOP = 0, 1, 2  # answers to a heartbeat
DECODING_ROOM = 256  # images of `prior` jobs taken at once

# Prefixes shared by the scripts, so that they can build the keys of the jobs they find.
_PREFIXES = {
    "queue": Queue.redis_queue_namespace_prefix,
    "job": Job.redis_job_namespace_prefix,
    "started": StartedJobRegistry.key_template.format(""),
    "finished": FinishedJobRegistry.key_template.format(""),
    "failed": FailedJobRegistry.key_template.format(""),
    "executions": ExecutionRegistry.key_template.format(""),
    "results": Result.get_key(""),  # type: ignore[no-untyped-call]
    "events": keys.events(""),
    "progress": keys.progress(""),
    "backlog": keys.BACKLOG,
    "ended": keys.ENDED,
}


@dataclass(frozen=True)
class Taken:
    """A job this worker has started."""

    id: str
    queue: str
    execution_id: str
    created_at: float
    started_at: float
    expires_at: float | None
    request: GenerateJob | None  # None where it cannot be read
    refused: Problem | None  # why it must not run, known before it began


@dataclass(frozen=True)
class Ended:
    """How a started job ended: with a result, or with the reason why there is none."""

    taken: Taken
    outcome: GenerateResult | Problem


class Bulk:
    """The scripts, for one worker."""

    def __init__(self, broker: Broker, worker_name: str, worker_key: str, lease_s: int) -> None:
        self._redis, self._limits, self._lease_s, self._worker = broker.redis, broker.limits, lease_s, worker_name
        execution_prefix = Execution("", "", broker.redis).key.removesuffix(":")
        self._prefixes = json.dumps(_PREFIXES | {"execution": execution_prefix})
        self._us = {
            "worker": worker_name,
            "worker_key": worker_key,
            "worker_executions": Execution("", "", broker.redis, worker_name).worker_executions_key,
            "lease": lease_s,
            "kept": broker.limits.failure_ttl_s,
            "events_kept": EVENTS_KEPT,
            "started": json.dumps({"worker": worker_name}),
        }
        self._take, self._beat, self._end = (broker.redis.register_script(script) for script in (TAKE, BEAT, END))

    def take(self, queues: Sequence[Queue], room: int) -> list[Taken]:
        """Pops and starts jobs, the first queues first, until `room` chains are filled; the last job may ask for more."""
        now = time.time()
        about = self._now(now, room=room, decoding_room=DECODING_ROOM, look=LOOKED_AT, execution=uuid4().hex[:29])
        found: Any = self._take(keys=[queue.key for queue in queues], args=[self._prefixes, about])
        return [
            _taken(*(part.decode() for part in entry[:3]), raw=dict(zip(entry[3][::2], entry[3][1::2], strict=True)), now=now)
            for entry in found
        ]

    def beat(self, jobs: Sequence[Taken], progress: Mapping[str, Progress]) -> list[int]:
        """Renews the lease on running jobs and tells their progress, by execution; answers LOST, OURS or STOP for each."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                told = progress[job.execution_id].model_dump_json() if job.execution_id in progress else ""
                args: list[str | float] = [self._prefixes, self._now(), job.id, job.queue, job.execution_id, told, job.started_at]
                self._beat(args=args, client=pipe)
            return pipe.execute()

    def end(self, ended: Sequence[Ended]) -> list[bool]:
        """Ends jobs, each with one announcement; False for those that were no longer ours to end."""
        with self._redis.pipeline(transaction=False) as pipe:
            for one in ended:
                self._end(args=[self._prefixes, self._now(), json.dumps(self._ending(one)), *self._result(one)], client=pipe)
            return [answer == 1 for answer in pipe.execute()]

    def abandon(self, jobs: Sequence[Taken]) -> None:
        """Lets go of running jobs: the next maintenance, by any worker, gives them their second chance."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.zadd(f"{_PREFIXES['started']}{job.queue}", {f"{job.id}:{job.execution_id}": 1}, xx=True)
            pipe.execute()

    def _now(self, unix: float | None = None, **more: Any) -> str:
        unix = time.time() if unix is None else unix
        return json.dumps(self._us | {"unix": f"{unix:.6f}", "now": utcformat(datetime.fromtimestamp(unix, UTC))} | more)

    def _ending(self, ended: Ended) -> dict[str, Any]:
        taken, outcome = ended.taken, ended.outcome
        facts = {
            "id": taken.id,
            "origin": taken.queue,
            "execution_id": taken.execution_id,
            "seconds": max(0.0, time.time() - taken.started_at),
        }
        if isinstance(outcome, GenerateResult):
            told, ttl = {"status": "finished"}, self._limits.result_ttl_s
            return facts | {
                "status": "finished",
                "registry": "finished",
                "counter": "successful_job_count",
                "ttl": ttl,
                "announced": json.dumps(told),
            }
        status = outcome.reason if outcome.reason in ("canceled", "expired") else "failed"
        told = {"status": status, "reason": outcome.reason, "detail": outcome.detail}
        rq_status, ttl = "stopped" if status == "canceled" else "failed", self._limits.failure_ttl_s
        return facts | {"status": rq_status, "registry": "failed", "counter": "failed_job_count", "ttl": ttl, "announced": json.dumps(told)}

    def _result(self, ended: Ended) -> list[Any]:
        """The fields of RQ's result record, flat."""
        taken, outcome = ended.taken, ended.outcome
        finished = isinstance(outcome, GenerateResult)
        record = Result(
            taken.id,
            Result.Type.SUCCESSFUL if finished else Result.Type.FAILED,
            self._redis,
            return_value=outcome.model_dump(mode="json") if isinstance(outcome, GenerateResult) else None,
            exc_string=views.reason_text(outcome) if isinstance(outcome, Problem) else None,
            worker_name=self._worker,
            serializer=JSONSerializer,
            execution_id=taken.execution_id,
            execution_started_at=datetime.fromtimestamp(taken.started_at, UTC),
            execution_ended_at=datetime.now(UTC),
        )
        return [part for field in record.serialize().items() for part in field]


def _taken(queue: str, job_id: str, execution_id: str, *, raw: dict[bytes, bytes], now: float) -> Taken:
    expires_at = float(raw[keys.EXPIRES_AT.encode()]) if keys.EXPIRES_AT.encode() in raw else None
    request, refused = _request(raw)
    if keys.CANCEL_REQUESTED.encode() in raw:
        refused = Problem(reason="canceled", detail="canceled on request")
    elif expires_at is not None and expires_at < now:
        refused = Problem(reason="expired", detail="the deadline passed before a worker was free")
    created_at = views.timestamp(raw.get(b"created_at")) or now
    return Taken(job_id, queue, execution_id, created_at, now, expires_at, request, refused)


def _request(raw: dict[bytes, bytes]) -> tuple[GenerateJob | None, Problem | None]:
    """What a job asks for, or why it cannot be read: another release of the software may have written it."""
    job = Job("unread", connection=_NOWHERE, serializer=JSONSerializer)
    try:
        job.restore(raw)
        request = views.request_of(job)
    except Exception as error:  # whatever is in there, it must not take the worker with it
        return None, Problem(reason="internal", detail=f"the queued request cannot be read: {error}")
    if not isinstance(request, GenerateJob):
        return None, Problem(reason="internal", detail=f"a {request.kind} job in a queue for generation")
    return request, None


_NOWHERE: Any = object()  # restoring a job needs no connection, but RQ insists on one
