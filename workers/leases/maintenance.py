"""Maintenance of the queues: jobs whose worker died get their second chance or fail, and RQ's registries forget what is old.

One live worker at a time does it for all.
"""

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

from workers.leases.recovery import Reclaimed, reclaim
from workers.queue import keys
from workers.queue.broker import EVENTS_KEPT
from workers.queue.routing import FORKED_QUEUES

LOCK_S = 10  # a worker that dies during maintenance keeps the others from it for this long


def maintain(worker: BaseWorker, queues: Sequence[Queue]) -> Reclaimed:
    """Maintains all these queues, unless another worker is doing so; returns the jobs whose worker died."""
    reclaimed, redis = Reclaimed(), worker.connection
    if not redis.set(keys.MAINTENANCE, worker.name, nx=True, ex=LOCK_S):
        return reclaimed
    try:
        reclaimed = reclaim(redis, [queue for queue in queues if queue.name not in FORKED_QUEUES])
        for queue in queues:
            if queue.name in FORKED_QUEUES:
                _reclaim_forked(queue, reclaimed)
            _clean(worker, queue)
    finally:
        redis.delete(keys.MAINTENANCE)
    return reclaimed


def _reclaim_forked(queue: Queue, reclaimed: Reclaimed) -> None:
    """RQ's own cleanup reclaims the jobs that RQ's own worker runs; it publishes nothing, so the events are added here."""
    requeued: list[Job] = []
    failed: list[Job] = []

    def note(job: Job, kind: type[BaseException], *rest: Any) -> bool:
        """RQ calls this for each abandoned job before it looks at the retries left; True lets RQ go on."""
        if issubclass(kind, AbandonedJobError):
            (requeued if job.retries_left else failed).append(job)
        return True

    started = StartedJobRegistry(queue=queue, job_class=queue.job_class, death_penalty_class=TimerDeathPenalty)
    started.cleanup(exception_handlers=[note])
    _announce(queue.connection, requeued, failed)
    reclaimed.requeued += [job.id for job in requeued]
    reclaimed.failed += [job.id for job in failed]


def _clean(worker: BaseWorker, queue: Queue) -> None:
    for registry in (FinishedJobRegistry(queue=queue), FailedJobRegistry(queue=queue)):
        registry.cleanup()
    queue.connection.zremrangebyscore(CanceledJobRegistry(queue=queue).key, 0, current_timestamp())  # RQ never forgets these
    clean_worker_registry(queue)
    queue.intermediate_queue.cleanup(worker, queue)


def _announce(redis: Redis, requeued: Iterable[Job], failed: Iterable[Job]) -> None:
    with redis.pipeline() as pipe:
        for job in requeued:
            event = {"queue": job.origin, "retried": True}
            pipe.xadd(keys.events(job.id), {"name": "queued", "data": json.dumps(event)}, maxlen=EVENTS_KEPT)
        for job in failed:
            pipe.expire(keys.events(job.id), job.failure_ttl or 1)
            pipe.delete(keys.progress(job.id))
            pipe.publish(keys.ENDED, job.id)
        pipe.execute()
