"""A worker's leases: it starts many RQ jobs at once, keeps them alive and ends them, each call one script and one round trip to Redis.

The scripts write what RQ's `prepare_execution`, `prepare_job_execution`, `maintain_heartbeats`, `handle_job_success` and
`handle_job_failure` write for each job in about sixty commands.
"""

import json
import logging
import time
import zlib
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from redis import Redis
from rq import Queue
from rq.executions import Execution
from rq.results import Result
from rq.utils import utcformat

from workers.capacity import Flow, Room
from workers.jobs import RECORD_BYTES, GenerateJob, GenerateResult, Problem, Progress, Status
from workers.jobs.generate import GENERATE_QUEUES, queue_for
from workers.leases.recovery import Undelivered, return_undelivered
from workers.queue import keys, views
from workers.queue.broker import EVENTS_KEPT, Broker
from workers.queue.routing import AGEING_S
from workers.queue.scripts import script

_logger = logging.getLogger("rq.worker")
LOOKED_AT = 128  # jobs from the head of each queue that one call considers
LOST, OURS, STOP = 0, 1, 2  # answers to a heartbeat
DECODING_ROOM = 256  # images of `prior` jobs taken at once
SENT_AT_MOST = 1 << 16  # bytes of a file that is sent with the announcement of a job's end; a larger one is fetched
NO_JOBS = b'{"jobs": []}'
FURTHER_JOBS = 16  # taken when the worker is full, because they start soon; more would be kept from other workers


@dataclass(frozen=True)
class Taken:
    """A job that this worker has started and holds the lease on."""

    id: str
    queue: str
    execution_id: str
    created_at: float
    started_at: float
    expires_at: float | None
    request: GenerateJob | None  # None when it cannot be read
    refused: Problem | None  # why it must not run, known when it was taken


@dataclass(frozen=True)
class Ended:
    """How a job ended: with a result, or with the reason why there is none."""

    taken: Taken
    outcome: GenerateResult | Problem
    files: Mapping[str, bytes] = field(default_factory=dict)  # content by name, for Redis to keep
    stored: int = 0  # bytes of files kept elsewhere

    @property
    def status(self) -> Status:
        if isinstance(self.outcome, GenerateResult):
            return Status.FINISHED
        return Status(self.outcome.reason) if self.outcome.reason in ("canceled", "expired") else Status.FAILED


class Leases:
    """The leases of one worker; `lease_s` is how long one lasts without a heartbeat, in seconds. Every call raises redis-py's errors."""

    def __init__(self, broker: Broker, worker_name: str, worker_key: str, lease_s: int) -> None:
        self._redis: Redis = broker.redis.client()  # type: ignore[no-untyped-call]  # a pool checks a connection before each use
        self._limits, self._lease_s, self._worker = broker.limits, lease_s, worker_name
        self._about = {
            "name": worker_name,
            "key": worker_key,
            "executions": Execution("", "", broker.redis, worker_name).worker_executions_key,
            "lease": lease_s,
            "kept": broker.limits.failure_ttl_s,
            "events_kept": EVENTS_KEPT,
            "started": json.dumps({"worker": worker_name}),
            "sent_at_most": SENT_AT_MOST,
        }
        self._take = self._redis.register_script(script("take"))
        self._beat = self._redis.register_script(script("beat"))
        self._end = self._redis.register_script(script("end"))

    def take(self, queues: Sequence[Queue], room: Room, *, offering: bool = False) -> list[Taken]:
        """Takes jobs in turn until the room is used up, and a few further ones; the last job may have more chains than there is room for.

        With `offering`, when no job is left in the queues, submissions may start jobs for this worker and send them, up to the room left.
        """
        terms = self._worker_as_json(**self._room(queues, room), offers=offering)
        return read_jobs(self._take(args=[terms]) or NO_JOBS)

    def take_one(self, queue: Queue) -> list[Taken]:
        """Takes the next job of a queue, if there is one."""
        terms = self._worker_as_json(**self._room([queue], Room(1, frozenset())) | {"most": 1})
        return read_jobs(self._take(args=[terms]) or NO_JOBS)

    @staticmethod
    def _room(queues: Sequence[Queue], room: Room) -> dict[str, Any]:
        """The part of a script's argument that limits which jobs may be taken."""
        further = {"further": FURTHER_JOBS - len(room.waiting), "inside": _inside(room.waiting)}
        quick = {"further_quick": FURTHER_JOBS, "quick": room.quick}
        looked_at = {"look": LOOKED_AT, "most": len(queues) * LOOKED_AT, "ageing": AGEING_S}
        limits = {"room": room.free, "decoding_room": DECODING_ROOM, "execution": uuid4().hex[:29]}
        return {"queues": [queue.key for queue in queues]} | limits | further | quick | looked_at

    @staticmethod
    def may_have_left_some(taken: Sequence[Taken], room: Room) -> bool:
        """Whether `take` stopped because it ran out of room or reached its limit, so that jobs may still wait in the queues."""
        requests = [job.request for job in taken if job.request]
        decoded = sum(request.num_images for request in requests if request.mcmc is None)
        chains = sum(request.num_images for request in requests if request.mcmc)
        return chains >= room.free or decoded >= DECODING_ROOM or len(taken) >= LOOKED_AT

    def beat(self, jobs: Sequence[Taken], progress: Mapping[str, Progress]) -> list[int]:
        """Renews the leases on running jobs and stores their progress (by execution id); returns LOST, OURS or STOP for each job."""
        beats = [
            {
                "id": job.id,
                "origin": job.queue,
                "execution_id": job.execution_id,
                "started_at": f"{job.started_at:.6f}",
                "progress": progress[job.execution_id].model_dump_json() if job.execution_id in progress else "",
            }
            for job in jobs
        ]
        answers: list[int] = self._beat(args=[self._worker_as_json(), json.dumps(beats)]) if jobs else []
        return answers

    def end(self, ended: Sequence[Ended]) -> list[Ended]:
        """Ends and announces jobs and keeps their files; returns the jobs whose lease this worker still held, as they ended.

        A job whose files Redis has no room for ends with the problem `unavailable`.
        """
        return self.end_and_offer(ended, (), None)[0]

    def end_and_offer(self, ended: Sequence[Ended], queues: Sequence[Queue], room: Room | None) -> tuple[list[Ended], bool]:
        """Ends jobs and offers `room` for others, unless it is None; also returns whether the offer stands: it does when no job waits."""
        *answers, offered = self._end_all(ended, self._room(queues, room) | {"offers": True} if room else {})
        done = [one for one, answer in zip(ended, answers, strict=True) if answer == OURS]
        refused = [
            Ended(one.taken, Problem(reason="unavailable", detail=f"Redis takes no images: {answer.decode()}"))
            for one, answer in zip(ended, answers, strict=True)
            if isinstance(answer, bytes)
        ]
        return done + self.end(refused) if refused else done, bool(offered)

    def _end_all(self, ended: Sequence[Ended], room: Mapping[str, Any]) -> list[int | bytes]:
        now, endings = time.time(), []
        contents: list[bytes] = []
        for one in ended:
            first = len(contents) + 3  # Lua counts from 1, and two arguments come before
            files = [[name, first + place] for place, name in enumerate(one.files)]
            contents += one.files.values()
            result = self._result(one, now)
            kept = RECORD_BYTES + one.stored + sum(map(len, (*one.files.values(), *result)))
            endings.append(self._ending(one) | {"result": result, "files": files, "bytes": kept})
        answers: list[int | bytes] = self._end(args=[self._worker_as_json(now, **room), json.dumps(endings), *contents]) if ended else [0]
        return answers

    def withdraw(self) -> None:
        """Withdraws the worker's offer: no submission sends it jobs from now on."""
        self._redis.zrem(keys.OFFERS, self._worker)

    def return_undelivered(self, running: Iterable[Taken], *, on_its_way_s: float) -> Undelivered:
        """Requeues jobs that were started for this worker over `on_its_way_s` seconds ago and are not `running`; it costs no retry."""
        known = [f"{job.id}:{job.execution_id}" for job in running]
        undelivered = return_undelivered(self._redis, self._worker, known, lease_s=self._lease_s, on_its_way_s=on_its_way_s)
        if undelivered.returned:
            _logger.warning("Worker %s: requeued %d jobs assigned to it that it never received", self._worker, undelivered.returned)
        return undelivered

    def abandon(self, jobs: Sequence[Taken]) -> None:
        """Lets the leases on these jobs run out: the next maintenance, by any worker, gives them their second chance."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.zadd(f"{keys.SCRIPT_KEYS['started']}{job.queue}", {f"{job.id}:{job.execution_id}": 1}, xx=True)
            pipe.execute()

    def _worker_as_json(self, unix: float | None = None, **more: Any) -> str:
        """The scripts' first argument: this worker and the time."""
        unix = time.time() if unix is None else unix
        return json.dumps(self._about | {"unix": f"{unix:.6f}", "now": utcformat(datetime.fromtimestamp(unix, UTC))} | more)

    def _ending(self, ended: Ended) -> dict[str, Any]:
        taken, outcome = ended.taken, ended.outcome
        facts: dict[str, Any] = {
            "id": taken.id,
            "origin": taken.queue,
            "execution_id": taken.execution_id,
            "seconds": f"{max(0.0, time.time() - taken.started_at):.6f}",
        }
        if isinstance(outcome, GenerateResult):
            ending = ("finished", "finished", "successful_job_count", self._limits.result_ttl_s)
        else:
            rq_status = "stopped" if ended.status is Status.CANCELED else "failed"
            ending = (rq_status, "failed", "failed_job_count", self._limits.failure_ttl_s)
        return facts | dict(zip(("status", "registry", "counter", "ttl"), ending, strict=True))

    def _result(self, ended: Ended, now: float) -> list[str]:
        """RQ's record of a result, as fields and values in turn."""
        taken, outcome = ended.taken, ended.outcome
        if isinstance(outcome, GenerateResult):
            content = [str(Result.Type.SUCCESSFUL.value), "return_value", _base64(outcome.model_dump_json().encode())]
        else:
            content = [str(Result.Type.FAILED.value), "exc_string", _base64(zlib.compress(views.reason_text(outcome).encode()))]
        times = ["execution_started_at", f"{taken.started_at:.6f}", "execution_ended_at", f"{now:.6f}"]
        return ["type", *content, "worker_name", self._worker, "execution_id", taken.execution_id, *times]


def _inside(waiting: Iterable[Flow]) -> dict[str, int]:
    """Callers with chains waiting in a worker, and the place of the highest queue that those came from, counted from 1."""
    places = {flow: GENERATE_QUEUES.index(queue_for(flow.priority)) + 1 for flow in waiting}
    return {flow.caller: min(place for other, place in places.items() if other.caller == flow.caller) for flow in places}


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def read_jobs(message: bytes) -> list[Taken]:
    """The jobs of a message that scripts/pieces/starting.lua made: a line of JSON, then the `data` of each job's hash."""
    line, _, contents = message.partition(b"\n")
    head, at, taken = json.loads(line), 0, []
    for *entry, length in head["jobs"]:
        taken.append(_taken(entry, contents[at : at + length], float(head["unix"])))
        at += length
    return taken


def _taken(entry: Sequence[Any], data: bytes, now: float) -> Taken:
    queue, job_id, execution_id, created_at, deadline, cancel_requested = entry
    expires_at = float(deadline) if deadline else None
    request, refused = _request(data)
    if cancel_requested:
        refused = Problem(reason="canceled", detail="canceled on request")
    elif expires_at is not None and expires_at < now:
        refused = Problem(reason="expired", detail="the deadline passed before a worker was free")
    created = views.timestamp(created_at.encode() if created_at else None) or now
    return Taken(job_id, queue, execution_id, created, now, expires_at, request, refused)


def _request(data: bytes) -> tuple[GenerateJob | None, Problem | None]:
    """The request in a job's data, or why it cannot be read: another release of the software may have written it."""
    try:
        _function, _instance, _arguments, by_name = json.loads(zlib.decompress(data))
        return GenerateJob.model_validate(by_name["job"]), None
    except Exception as error:  # no content of a job may end the worker
        return None, Problem(reason="internal", detail=f"the queued request cannot be read: {error}")
