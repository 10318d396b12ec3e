"""Starts, keeps alive and ends many RQ jobs at once: each job one atomic script, each call one round trip, RQ's own records true.

The scripts do in three commands a job what RQ's `prepare_execution`, `prepare_job_execution`, `maintain_heartbeats`, `handle_job_success`
and `handle_job_failure` do in about sixty.
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
from workers.jobs import GenerateJob, GenerateResult, Problem, Progress, Status
from workers.jobs.generate import GENERATE_QUEUES, queue_for
from workers.leases.recovery import Unheard, return_unheard
from workers.queue import keys, views
from workers.queue.broker import EVENTS_KEPT, Broker
from workers.queue.rq_scripts import BEAT, END
from workers.queue.script_names import NAMES, named
from workers.queue.turns import AGEING_S, TAKE

_logger = logging.getLogger("rq.worker")
LOOKED_AT = 128  # jobs from the head of each queue that one pop considers
LOST, OURS, STOP = 0, 1, 2  # answers to a heartbeat
DECODING_ROOM = 256  # images of `prior` jobs taken at once
SENT_AT_MOST = 1 << 16  # bytes of a file that travel with the news of a job's end; a larger one is fetched
NOTHING = b'{"jobs": []}'
FURTHER_JOBS = 16  # taken though nothing is free, because they start soon all the same: more would be kept from other workers


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
    files: Mapping[str, bytes] = field(default_factory=dict)  # that Redis is to keep

    @property
    def status(self) -> Status:
        if isinstance(self.outcome, GenerateResult):
            return Status.FINISHED
        return Status(self.outcome.reason) if self.outcome.reason in ("canceled", "expired") else Status.FAILED


class Bulk:
    """The scripts, for one worker."""

    def __init__(self, broker: Broker, worker_name: str, worker_key: str, lease_s: int) -> None:
        self._redis: Redis = broker.redis.client()  # type: ignore[no-untyped-call]  # the pool looks at a connection before each use
        self._limits, self._lease_s, self._worker = broker.limits, lease_s, worker_name
        self._us = {
            "worker": worker_name,
            "worker_key": worker_key,
            "worker_executions": Execution("", "", broker.redis, worker_name).worker_executions_key,
            "lease": lease_s,
            "kept": broker.limits.failure_ttl_s,
            "events_kept": EVENTS_KEPT,
            "started": json.dumps({"worker": worker_name}),
            "sent_at_most": SENT_AT_MOST,
        }
        self._take, self._beat, self._end = (self._redis.register_script(named(script)) for script in (TAKE, BEAT, END))

    def take(self, queues: Sequence[Queue], room: Room, *, offering: bool = False) -> list[Taken]:
        """Pops and starts jobs in turn until the chains free are filled, and a few further jobs; the last one may ask for more.

        Where nothing is left then and the worker is `offering`, later submissions may start jobs in its name and send them, as room allows.
        """
        terms = self._now(**self._terms(queues, room), offers=offering)
        return handed(self._take(args=[terms]) or NOTHING)

    def take_one(self, queue: Queue) -> list[Taken]:
        """Pops and starts the next job of a queue, if there is one."""
        terms = self._now(**self._terms([queue], Room(1, frozenset())) | {"most": 1})
        return handed(self._take(args=[terms]) or NOTHING)

    @staticmethod
    def _terms(queues: Sequence[Queue], room: Room) -> dict[str, Any]:
        """What may be taken."""
        further = {"further": FURTHER_JOBS - len(room.waiting), "inside": _inside(room.waiting)}
        quick = {"further_quick": FURTHER_JOBS, "quick": room.quick}
        looked_at = {"look": LOOKED_AT, "most": len(queues) * LOOKED_AT, "ageing": AGEING_S}
        limits = {"room": room.free, "decoding_room": DECODING_ROOM, "execution": uuid4().hex[:29]}
        return {"queues": [queue.key for queue in queues]} | limits | further | quick | looked_at

    @staticmethod
    def may_have_left_some(taken: Sequence[Taken], room: Room) -> bool:
        """Whether `take` stopped for want of room, or of patience, rather than at the end of the queues."""
        requests = [job.request for job in taken if job.request]
        decoded = sum(request.num_images for request in requests if request.mcmc is None)
        chains = sum(request.num_images for request in requests if request.mcmc)
        return chains >= room.free or decoded >= DECODING_ROOM or len(taken) >= LOOKED_AT

    def beat(self, jobs: Sequence[Taken], progress: Mapping[str, Progress]) -> list[int]:
        """Renews the lease on running jobs and tells their progress, by execution; answers LOST, OURS or STOP for each."""
        told = [
            {
                "id": job.id,
                "origin": job.queue,
                "execution_id": job.execution_id,
                "started_at": f"{job.started_at:.6f}",
                "progress": progress[job.execution_id].model_dump_json() if job.execution_id in progress else "",
            }
            for job in jobs
        ]
        answers: list[int] = self._beat(args=[self._now(), json.dumps(told)]) if jobs else []
        return answers

    def end(self, ended: Sequence[Ended]) -> list[Ended]:
        """Ends jobs, each with one announcement, and keeps their files; gives back those that were still ours, as they ended.

        One whose files Redis has no room for ends with that as its reason.
        """
        return self.end_and_offer(ended, (), None)[0]

    def end_and_offer(self, ended: Sequence[Ended], queues: Sequence[Queue], room: Room | None) -> tuple[list[Ended], bool]:
        """The same, and offers to take jobs into this room, if there is one; the second answer is whether the offer stands."""
        *answers, offered = self._end_all(ended, self._terms(queues, room) | {"offers": True} if room else {})
        told = [one for one, answer in zip(ended, answers, strict=True) if answer == OURS]
        refused = [
            Ended(one.taken, Problem(reason="unavailable", detail=f"Redis takes no images: {answer.decode()}"))
            for one, answer in zip(ended, answers, strict=True)
            if isinstance(answer, bytes)
        ]
        return told + self.end(refused) if refused else told, bool(offered)

    def _end_all(self, ended: Sequence[Ended], terms: Mapping[str, Any]) -> list[int | bytes]:
        now, endings = time.time(), []
        contents: list[bytes] = []
        for one in ended:
            first = len(contents) + 3  # arguments count from 1, and two come before
            files = [[name, first + place] for place, name in enumerate(one.files)]
            contents += one.files.values()
            endings.append(self._ending(one) | {"result": self._result(one, now), "files": files})
        answers: list[int | bytes] = self._end(args=[self._now(now, **terms), json.dumps(endings), *contents]) if ended else [0]
        return answers

    def withdraw(self) -> None:
        """Takes back the worker's offer: nothing is sent to it any more."""
        self._redis.zrem(keys.OFFERS, self._worker)

    def return_unheard(self, running: Iterable[Taken], *, on_its_way_s: float) -> Unheard:
        """Puts back jobs that Redis takes this worker to run and that it does not, older ones than that; no try of theirs is spent."""
        known = [f"{job.id}:{job.execution_id}" for job in running]
        unheard = return_unheard(self._redis, self._worker, known, lease_s=self._lease_s, on_its_way_s=on_its_way_s)
        if unheard.returned:
            _logger.warning("Worker %s: returned %d jobs that Redis gave it and it never got", self._worker, unheard.returned)
        return unheard

    def abandon(self, jobs: Sequence[Taken]) -> None:
        """Lets go of running jobs: the next maintenance, by any worker, gives them their second chance."""
        with self._redis.pipeline(transaction=False) as pipe:
            for job in jobs:
                pipe.zadd(f"{NAMES['started']}{job.queue}", {f"{job.id}:{job.execution_id}": 1}, xx=True)
            pipe.execute()

    def _now(self, unix: float | None = None, **more: Any) -> str:
        unix = time.time() if unix is None else unix
        return json.dumps(self._us | {"unix": f"{unix:.6f}", "now": utcformat(datetime.fromtimestamp(unix, UTC))} | more)

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
        """RQ's record of a result, flat."""
        taken, outcome = ended.taken, ended.outcome
        if isinstance(outcome, GenerateResult):
            told = [str(Result.Type.SUCCESSFUL.value), "return_value", _base64(outcome.model_dump_json().encode())]
        else:
            told = [str(Result.Type.FAILED.value), "exc_string", _base64(zlib.compress(views.reason_text(outcome).encode()))]
        times = ["execution_started_at", f"{taken.started_at:.6f}", "execution_ended_at", f"{now:.6f}"]
        return ["type", *told, "worker_name", self._worker, "execution_id", taken.execution_id, *times]


def _inside(waiting: Iterable[Flow]) -> dict[str, int]:
    """Callers who have chains waiting in a worker, with the place of the first queue they came from."""
    places = {flow: GENERATE_QUEUES.index(queue_for(flow.priority)) + 1 for flow in waiting}
    return {flow.caller: min(place for other, place in places.items() if other.caller == flow.caller) for flow in places}


def _base64(content: bytes) -> str:
    return b64encode(content).decode()


def handed(message: bytes) -> list[Taken]:
    """The jobs that a script started: a line of JSON, then RQ's records of their calls one after the other."""
    line, _, contents = message.partition(b"\n")
    told, at, taken = json.loads(line), 0, []
    for *entry, length in told["jobs"]:
        taken.append(_taken(entry, contents[at : at + length], float(told["unix"])))
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
    born = views.timestamp(created_at.encode() if created_at else None) or now
    return Taken(job_id, queue, execution_id, born, now, expires_at, request, refused)


def _request(data: bytes) -> tuple[GenerateJob | None, Problem | None]:
    """What RQ's record of a call asks for, or why it cannot be read: another release of the software may have written it."""
    try:
        _function, _instance, _arguments, named = json.loads(zlib.decompress(data))
        return GenerateJob.model_validate(named["job"]), None
    except Exception as error:  # whatever is in there, it must not take the worker with it
        return None, Problem(reason="internal", detail=f"the queued request cannot be read: {error}")
