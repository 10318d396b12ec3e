"""Finds jobs whose worker died and gives them their second chance, or ends them with the reason; any one live worker does it for all."""

import json
from collections.abc import Iterable, Sequence
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

from workers.leases.recovery import Found, reclaim
from workers.queue import keys
from workers.queue.broker import EVENTS_KEPT
from workers.queue.routing import FORKED_QUEUES

LOCK_S = 10  # a worker that dies while it looks holds up the others for no longer


def maintain(worker: BaseWorker, queues: Sequence[Queue]) -> Found:
    """Looks through all queues, unless another worker is doing so; says what it found."""
    found, redis = Found(), worker.connection
    if not redis.set(keys.MAINTENANCE, worker.name, nx=True, ex=LOCK_S):
        return found
    try:
        found = reclaim(redis, [queue for queue in queues if queue.name not in FORKED_QUEUES])
        for queue in queues:
            if queue.name in FORKED_QUEUES:
                _reclaim_forked(queue, found)
            _clean(worker, queue)
    finally:
        redis.delete(keys.MAINTENANCE)
    return found


def _reclaim_forked(queue: Queue, found: Found) -> None:
    """RQ's own cleanup decides about jobs of RQ's own worker; it announces nothing, so we do."""
    requeued: list[Job] = []
    failed: list[Job] = []

    def note(job: Job, kind: type[BaseException], *rest: Any) -> bool:
        """RQ calls it for each abandoned job before it decides by the tries left; True lets RQ go on."""
        if issubclass(kind, AbandonedJobError):
            (requeued if job.retries_left else failed).append(job)
        return True

    started = StartedJobRegistry(queue=queue, job_class=queue.job_class, death_penalty_class=TimerDeathPenalty)
    started.cleanup(exception_handlers=[note])
    _announce(queue.connection, requeued, failed)
    found.requeued += [job.id for job in requeued]
    found.failed += [job.id for job in failed]


def _clean(worker: BaseWorker, queue: Queue) -> None:
    for registry in (FinishedJobRegistry(queue=queue), FailedJobRegistry(queue=queue)):
        registry.cleanup()
    queue.connection.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())  # RQ never forgets these
    clean_worker_registry(queue)
    queue.intermediate_queue.cleanup(worker, queue)


def _announce(redis: Redis, requeued: Iterable[Job], failed: Iterable[Job]) -> None:
    with redis.pipeline() as pipe:
        for job in requeued:
            told = {"queue": job.origin, "retried": True}
            pipe.xadd(keys.events(job.id), {"name": "queued", "data": json.dumps(told)}, maxlen=EVENTS_KEPT)
        for job in failed:
            pipe.expire(keys.events(job.id), job.failure_ttl or 1)
            pipe.delete(keys.progress(job.id))
            pipe.publish(keys.ENDED, job.id)
        pipe.execute()
