"""What is held of jobs: bytes, files that are no longer wanted, and what a caller's waiting jobs ask for."""

import json
import time

from redis import Redis
from rq import Queue
from rq.job import Job

from workers.jobs import RECORD_BYTES, JobView
from workers.queue import keys, routing, views
from workers.queue.artifacts import Artifacts
from workers.queue.connection import guarded
from workers.queue.scripts import script


def held(redis: Redis) -> views.StoreView:
    """What Redis holds, and may hold."""
    with guarded(), redis.pipeline(transaction=False) as pipe:
        pipe.info("memory")
        pipe.hget(keys.KEPT_BY, keys.KEPT_BY_ALL)
        memory, kept = pipe.execute()
    return views.StoreView(used=int(memory["used_memory"]), limit=int(memory.get("maxmemory", 0)), kept=int(kept or 0))


def discard(redis: Redis, artifacts: Artifacts, view: JobView) -> None:
    """Deletes the files of a job that is over. Its record and its diagnostics stay, and its bytes no longer count. Raises ArtifactError."""
    if view.result is not None:
        artifacts.delete(view.id, view.result.artifacts)
    with guarded():
        redis.register_script(script("discard"))(args=[json.dumps({"id": view.id, "bytes": RECORD_BYTES, "unix": time.time()})])


def waiting_of(redis: Redis, caller: str) -> int:
    """Chain-steps that a caller's waiting jobs ask for. It looks at every job that waits."""
    with guarded():
        with redis.pipeline(transaction=False) as pipe:
            for name in routing.QUEUES:
                pipe.lrange(Queue.redis_queue_namespace_prefix + name, 0, -1)
            waiting = [job_id.decode() for ids in pipe.execute() for job_id in ids]
        with redis.pipeline(transaction=False) as pipe:
            for job_id in waiting:
                pipe.hmget(Job.key_for(job_id), keys.CALLER, keys.COST)
            found = pipe.execute()
    return sum(int(cost or 0) for who, cost in found if (who or b"").decode() == caller)
