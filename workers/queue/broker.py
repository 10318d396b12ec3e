"""Submits, cancels and looks up jobs, and reads their events: RQ and Redis behind one class, safe to call from threads."""

import json
import logging
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from secrets import token_hex
from typing import Any

from pydantic import ValidationError
from redis import Redis
from redis.client import Pipeline
from rq import Queue
from rq.command import send_command
from rq.job import Job
from rq.results import Result
from rq.serializers import JSONSerializer
from rq.utils import utcformat
from rq.worker import BaseWorker

from workers.jobs import EVENT_ID, RECORD_BYTES, AnyJob, Event, JobView, Progress, Status
from workers.queue import keys, routing, views
from workers.queue.completions import Completions, Expected
from workers.queue.connection import (
    BrokerError,
    BrokerFull,
    BrokerLimits,
    BrokerUnavailable,
    ConnectionSettings,
    UnknownJob,
    connect,
    guarded,
)
from workers.queue.scripts import script
from workers.queue.submissions import Submission, Submissions
from workers.queue.views import QueueView, WorkerView

__all__ = [
    "Broker",
    "BrokerError",
    "BrokerFull",
    "BrokerLimits",
    "BrokerUnavailable",
    "Expected",
    "Completions",
    "QueueView",
    "UnknownJob",
    "WorkerView",
    "new_id",
]

EVENTS_KEPT = 1000
_logger = logging.getLogger("rq.worker")


def new_id() -> str:
    """An id for a job; a caller that chooses it can wait for the job's end before submitting it."""
    return token_hex(16)


class Broker:
    """Jobs in Redis, between the API and the workers."""

    def __init__(self, redis: Redis, limits: BrokerLimits) -> None:
        self.redis = redis
        self.limits = limits
        self._submissions = Submissions(redis, limits)
        self._submit, self._cancel = redis.register_script(script("submit")), redis.register_script(script("cancel"))
        self._queues = {name: Queue(name, connection=redis, serializer=JSONSerializer) for name in routing.QUEUES}

    @classmethod
    def connect(cls, settings: ConnectionSettings) -> "Broker":
        limits = BrokerLimits(settings.result_ttl_s, settings.failure_ttl_s, settings.job_timeout_s)
        return cls(connect(settings.redis_url), limits)

    @classmethod
    def connect_patiently(cls, settings: ConnectionSettings) -> "Broker":
        """Connects, and waits until Redis answers."""
        broker = cls.connect(settings)
        while True:
            try:
                broker.ping()
            except BrokerUnavailable as error:
                _logger.warning("waiting for Redis: %s", error)
                time.sleep(1.0)
            else:
                return broker

    def ping(self) -> None:
        """Raises BrokerUnavailable where Redis does not answer."""
        with guarded():
            self.redis.ping()

    def require_room(self) -> None:
        """Raises BrokerFull where Redis has no room in memory or on its disk, BrokerUnavailable where it accepts no writes at all."""
        with guarded():
            self.redis.set(keys.PROBE, 1, px=1000)

    # Submitting and canceling

    def submit(self, job: AnyJob, job_id: str | None = None) -> str:
        """Queues a job and returns its id. Where a job has the given `job_id` already, that job stays as it is."""
        return self.submit_many([job], [job_id or new_id()])[0]

    def submit_many(self, jobs: Sequence[AnyJob], ids: Sequence[str] | None = None) -> list[str]:
        """Queues all the jobs in one round trip, or none of them."""
        chosen = [new_id() for _ in jobs] if ids is None else list(ids)
        with guarded():
            self._submit(args=self._submissions.arguments([Submission(job, job_id) for job, job_id in zip(jobs, chosen, strict=True)]))
        return chosen

    def cancel(self, job_id: str) -> JobView:
        """Ends a queued job at once, asks a running job to stop, and leaves an ended job as it is, atomically. Raises UnknownJob."""
        now = time.time()
        moment = utcformat(datetime.fromtimestamp(now, UTC))
        with guarded():
            decision: Any = self._cancel(
                args=[json.dumps({"id": job_id, "unix": now, "now": moment, "kept": self.limits.result_ttl_s, "bytes": RECORD_BYTES})]
            )
            if decision is None:
                raise UnknownJob(job_id)
            if decision.startswith(b"stop:"):
                send_command(self.redis, decision.removeprefix(b"stop:").decode(), "stop-job", job_id=job_id)
        return self.view(job_id)

    # Looking up

    def view(self, job_id: str) -> JobView:
        """Everything known of a job; raises UnknownJob."""
        found = self._views([job_id])
        if not found:
            raise UnknownJob(job_id)
        return found[0]

    def recent(self, limit: int = 50, first: int = 0, after: str | None = None) -> list[JobView]:
        """The last jobs submitted, newest first, without the first so many, or those up to the job `after`. Raises UnknownJob."""
        with guarded():
            if after is not None:
                place: Any = self.redis.zrevrank(keys.RECENT, after)
                if place is None:
                    raise UnknownJob(after)
                first += place + 1
            ids: Any = self.redis.zrevrange(keys.RECENT, first, first + limit - 1)
        return self._views([job_id.decode() for job_id in ids])

    def _views(self, ids: Sequence[str]) -> list[JobView]:
        with guarded():
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in ids:
                    pipe.hgetall(Job.key_for(job_id))
                    pipe.xrevrange(Result.get_key(job_id), count=1)  # type: ignore[no-untyped-call]
                    pipe.get(keys.progress(job_id))
                answers = pipe.execute()
            found = {job_id: answers[i : i + 3] for i, job_id in zip(range(0, len(answers), 3), ids, strict=True)}
            jobs = {job_id: self._restore(job_id, raw) for job_id, (raw, _, _) in found.items() if b"data" in raw}
            positions = self._positions([job for job_id, job in jobs.items() if views.status_of_record(found[job_id][0]) is Status.QUEUED])
        found_views = []
        for job_id, job in jobs.items():
            raw, results, progress = found[job_id]
            try:
                found_views.append(views.job_view(job, raw, self._result(job_id, results), progress, positions.get(job_id)))
            except ValidationError as error:
                _logger.warning("job %s cannot be read, another release may have written it: %s", job_id, error)
        return found_views

    def _restore(self, job_id: str, raw: dict[bytes, bytes]) -> Job:
        job = Job(job_id, connection=self.redis, serializer=JSONSerializer)
        job.restore(raw)
        return job

    def _result(self, job_id: str, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> Result | None:
        if not entries:
            return None
        entry_id, payload = entries[0]
        return Result.restore(job_id, entry_id.decode(), payload, connection=self.redis, serializer=JSONSerializer)

    def _positions(self, queued: Sequence[Job]) -> dict[str, int]:
        """The number of jobs ahead of each: in its own queue and in the queues served before that."""
        if not queued:
            return {}
        with self.redis.pipeline(transaction=False) as pipe:
            for name in routing.QUEUES:
                pipe.llen(self._queues[name].key)
            for job in queued:
                if job.origin in routing.FORKED_QUEUES:
                    pipe.lpos(self._queues[job.origin].key, job.id)
                else:
                    pipe.zrank(keys.turns(job.origin), job.id)  # None where RQ put the job back: at the front
            answers = pipe.execute()
        depths = dict(zip(routing.QUEUES, answers, strict=False))
        return {
            job.id: (place or 0) + sum(depths[name] for name in routing.served_before(job.origin))
            for job, place in zip(queued, answers[len(routing.QUEUES) :], strict=True)
        }

    def workers(self) -> list[WorkerView]:
        """The live worker processes."""
        with guarded():
            names: Any = self.redis.smembers(BaseWorker.redis_workers_keys)
            worker_keys = sorted(names)
            with self.redis.pipeline(transaction=False) as pipe:
                for key in worker_keys:
                    pipe.hgetall(key)
                    pipe.scard(key + b":executions")
                answers = pipe.execute()
        pairs = zip(worker_keys, answers[::2], answers[1::2], strict=True)
        return [views.worker_view(key, raw, running) for key, raw, running in pairs if views.is_alive(raw)]

    def queues(self) -> list[QueueView]:
        """All queues, with what waits in each."""
        with guarded():
            with self.redis.pipeline(transaction=False) as pipe:
                pipe.hgetall(keys.BACKLOG)
                for queue in self._queues.values():
                    pipe.llen(queue.key)
                    pipe.lindex(queue.key, 0)
                for name in routing.FORKED_QUEUES:
                    pipe.lrange(self._queues[name].key, 0, -1)
                backlog, *answers = pipe.execute()
            answers, waiting_ids = answers[: 2 * len(self._queues)], answers[2 * len(self._queues) :]
            work = dict(zip(routing.FORKED_QUEUES, self._work(waiting_ids), strict=True))
            with self.redis.pipeline(transaction=False) as pipe:
                for job_id in answers[1::2]:
                    pipe.hget(Job.key_for(job_id.decode() if job_id else ""), "created_at")
                created = pipe.execute()
        waiting = zip(self._queues, answers[::2], created, strict=True)
        return [views.queue_view(name, depth, born, int(backlog.get(name.encode(), 0)), work.get(name, 0)) for name, depth, born in waiting]

    def _work(self, queues: Sequence[Sequence[bytes]]) -> list[float]:
        """Operations of a training worker that the jobs of each list of ids ask for, in 10^12; few jobs wait for training."""
        with self.redis.pipeline(transaction=False) as pipe:
            for job_id in (job_id for ids in queues for job_id in ids):
                pipe.hget(Job.key_for(job_id.decode()), keys.WORK)
            found = iter(pipe.execute())
        return [sum(float(next(found) or 0) for _ in ids) for ids in queues]

    # Events

    def publish(self, job_id: str, name: str, data: dict[str, Any]) -> None:
        """Adds an event to a job; its last thousand are kept."""
        with guarded(), self.redis.pipeline(transaction=False) as pipe:
            self._add_event(pipe, job_id, name, data)
            pipe.execute()

    def events(self, job_id: str, after: str = "0") -> list[Event]:
        """The job's events after the one with id `after`; the last event of a job that is over is its `end`. Raises UnknownJob."""
        if not re.fullmatch(EVENT_ID, after):
            raise BrokerError(f"no event has the id {after!r}: resume with an id that the stream gave")
        with guarded(), self.redis.pipeline(transaction=False) as pipe:
            pipe.hmget(Job.key_for(job_id), "status", keys.EXPIRES_AT, keys.BEGAN)  # read first: a job that is over gets no more events
            pipe.xread({keys.events(job_id): after})
            (status, expires_at, began), streams = pipe.execute()
        if status is None:
            raise UnknownJob(job_id)
        found = views.first_events(began) + [_event(*entry) for _, entries in streams or () for entry in entries]
        if views.status_of(status, expires_at).over:
            found.append(views.last_event(self.view(job_id)))
        return [event for event in found if views.order(event.id) > views.order(after)]

    def report_progress(self, job_id: str, *, done: int, total: int, stage: str | None = None) -> None:
        """Stores and publishes how far a running job is, in steps of a stage; generation workers do so with their heartbeats."""
        progress = Progress(done=done, total=total, unit="steps", stage=stage)
        with guarded(), self.redis.pipeline(transaction=False) as pipe:
            pipe.set(keys.progress(job_id), progress.model_dump_json(), ex=self.limits.failure_ttl_s)
            self._add_event(pipe, job_id, "progress", progress.model_dump())
            pipe.execute()

    def standing(self, job_id: str, worker: str) -> tuple[bool, bool]:
        """Whether a worker still has a job, and whether its cancellation was requested."""
        with guarded():
            found: Any = self.redis.hmget(Job.key_for(job_id), "status", "worker_name", keys.CANCEL_REQUESTED)
        return found[:2] == [b"started", worker.encode()], found[2] is not None

    def announce_end(self, job_id: str) -> JobView:
        """Wakes the requests that wait for a job which RQ has ended; does nothing for a job that goes on. Raises UnknownJob."""
        view = self.view(job_id)
        if not view.status.over:
            return view
        with guarded(), self.redis.pipeline() as pipe:
            pipe.delete(keys.progress(job_id))
            pipe.publish(keys.ENDED, job_id)
            pipe.execute()
        return view

    def _add_event(self, pipe: Pipeline, job_id: str, name: str, data: dict[str, Any]) -> None:
        pipe.xadd(keys.events(job_id), {"name": name, "data": json.dumps(data)}, maxlen=EVENTS_KEPT, approximate=True)
        pipe.expire(keys.events(job_id), self.limits.failure_ttl_s)


def _event(entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    return Event.model_validate({"id": entry_id.decode(), "name": fields[b"name"].decode(), "data": json.loads(fields[b"data"])})
