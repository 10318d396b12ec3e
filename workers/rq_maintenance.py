"""Finds jobs whose worker died and gives them their second chance, or ends them with the reason; any one live worker does it for all."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis
from rq import Queue
from rq.exceptions import AbandonedJobError
from rq.job import Job
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.timeouts import TimerDeathPenalty
from rq.utils import current_timestamp
from rq.worker import BaseWorker
from rq.worker_registration import clean_worker_registry

from workers import keys
from workers.broker import EVENTS_KEPT

LOCK_S = 10  # a worker that dies while it looks holds up the others for no longer


@dataclass
class Found:
    """Jobs that had no worker any more, by their fate."""

    requeued: list[Job] = field(default_factory=list)
    failed: list[Job] = field(default_factory=list)

    def note(self, job: Job, kind: type[BaseException], *rest: Any) -> bool:
        """RQ calls it for each abandoned job before it decides by the tries left; True lets RQ go on."""
        if issubclass(kind, AbandonedJobError):
            (self.requeued if job.retries_left else self.failed).append(job)
        return True


def maintain(worker: BaseWorker, queues: Iterable[Queue]) -> Found:
    """Looks through all queues, unless another worker is doing so; says what it found."""
    found, redis = Found(), worker.connection
    if not redis.set(keys.MAINTENANCE, worker.name, nx=True, ex=LOCK_S):
        return found
    try:
        for queue in queues:
            _clean(worker, queue, found)
        _announce(redis, found)
    finally:
        redis.delete(keys.MAINTENANCE)
    return found


def _clean(worker: BaseWorker, queue: Queue, found: Found) -> None:
    started = StartedJobRegistry(queue=queue, job_class=queue.job_class, death_penalty_class=TimerDeathPenalty)
    started.cleanup(exception_handlers=[found.note])
    for registry in (FinishedJobRegistry(queue=queue), FailedJobRegistry(queue=queue)):
        registry.cleanup()
    queue.connection.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())  # RQ never forgets these
    clean_worker_registry(queue)
    queue.intermediate_queue.cleanup(worker, queue)


def _announce(redis: Redis, found: Found) -> None:
    """Tells those who wait and those who listen; RQ itself tells nobody."""
    with redis.pipeline() as pipe:
        for job in found.requeued:
            pipe.xadd(keys.events(job.id), _event("queued", {"queue": job.origin, "retried": True}), maxlen=EVENTS_KEPT)
            pipe.publish(keys.SUBMITTED, "")
        for job in found.failed:
            told = {"status": "failed", "reason": "abandoned", "detail": "its worker died twice while running it"}
            pipe.xadd(keys.events(job.id), _event("end", told), maxlen=EVENTS_KEPT)
            pipe.expire(keys.events(job.id), job.failure_ttl or 1)
            pipe.delete(keys.progress(job.id))
            pipe.publish(keys.ENDED, job.id)
        pipe.execute()


def _event(name: str, data: dict[str, Any]) -> dict[Any, Any]:
    return {"name": name, "data": json.dumps(data)}
