"""Submits jobs: one script writes the hashes of all jobs of a call, each as RQ would write it, and queues or starts them."""

import json
import time
import zlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import uuid4

from redis import Redis
from rq import Queue, Retry
from rq.serializers import JSONSerializer
from rq.utils import utcformat

from workers.jobs import RECORD_BYTES, AnyJob
from workers.queue import keys, routing
from workers.queue.connection import BrokerLimits, connect_async, guarded
from workers.queue.scripts import script

FUNCTION = "workers.jobs.run"  # of every queued job
RECENT_KEPT = 1000
OFFER_S = 2.0  # how long a worker's offer of room stands; a worker renews it more often than that
QUICK_TICKS = 100  # a job whose chains need no more ticks is quick: a full worker may take it, so workers are woken for it
OF_EACH = ("data", "created_at", "description", "status")  # fields of RQ's job hash that differ from job to job
UNCOMPRESSED = 0  # zlib's level: RQ reads zlib's format, but compressing a short request costs more time than it saves


class Submission(NamedTuple):
    """A job and its id. `reply` is a channel, a space and a file's name: that file is sent to the channel when the job has ended."""

    job: AnyJob
    job_id: str
    reply: str = ""
    expected: int = RECORD_BYTES  # bytes that it will leave, at most
    most: int | None = None  # bytes that may be kept of its caller, where that is less than of others


class KeptLimits(NamedTuple):
    """Bytes that may be kept of jobs, from their submission until their results expire."""

    all: int
    caller: int


class Full(NamedTuple):
    """Why a job was refused: what is kept already."""

    whose: str  # `caller` or `all`
    kept: int  # bytes
    next_gone_s: int  # seconds until some of them are gone


class Answer(NamedTuple):
    """What became of a submission."""

    backlog: int  # chain-steps that wait after it
    full: Full | None = None  # where it was refused


class AsyncSubmissions:
    """Submits from an event loop, without a thread, which would take longer than the submission."""

    def __init__(self, broker_redis: Redis, url: str, limits: BrokerLimits, kept: KeptLimits | None = None) -> None:
        self._arguments, self._kept = Submissions(broker_redis, limits).arguments, kept
        self._redis = connect_async(url)
        self._submit = self._redis.register_script(script("submit"))

    async def __call__(self, submissions: Sequence[Submission]) -> Sequence[Answer]:
        """Submits the jobs in one round trip, but for those that would leave too much. Raises BrokerUnavailable, and then submits none."""
        with guarded():
            backlog, answers = await self._submit(args=self._arguments(submissions, self._kept))
        return [Answer(backlog, Full(answer[0].decode(), *answer[1:]) if answer else None) for answer in answers]

    async def close(self) -> None:
        await self._redis.aclose()


class Submissions:
    """Makes the arguments of the script `submit`; the caller runs it, blocking or from an event loop."""

    def __init__(self, redis: Redis, limits: BrokerLimits) -> None:
        self._limits = limits
        self._records = {name: self._record(Queue(name, connection=redis, serializer=JSONSerializer)) for name in routing.QUEUES}

    def arguments(self, submissions: Sequence[Submission], kept: KeptLimits | None = None) -> list[Any]:
        """Arguments that submit all the jobs, but for those that would leave more than `kept`; a job whose id is known is left as it is."""
        now = time.time()
        moment = utcformat(datetime.fromtimestamp(now, UTC))
        terms = {"unix": f"{now:.6f}", "now": moment, "kept": self._limits.failure_ttl_s, "execution": uuid4().hex[:29]}
        terms |= {"limits": kept._asdict()} if kept else {}
        origins = {submission.job.queue for submission in submissions}
        times = ("created_at", moment, "enqueued_at", moment, keys.ENTERED_AT, f"{now:.6f}")
        records = {origin: [*self._records[origin], *times] for origin in origins}
        arguments: list[Any] = [json.dumps(terms | {"recent_kept": RECENT_KEPT, "offer_lasts": OFFER_S, "records": records})]
        for submission in submissions:
            arguments += self._arguments(submission, now)
        return arguments

    def _arguments(self, submission: Submission, now: float) -> tuple[str, bytes]:
        """A job as JSON and RQ's record of the call. Only two arguments a job, as redis-py takes time for each."""
        job, job_id, reply, expected, most = submission
        fields = ["description", job.describe(), keys.CHAINS, str(job.chains), keys.CALLER, job.caller, keys.KEPT_BYTES, str(expected)]
        entry: dict[str, Any] = {"id": job_id, "origin": job.queue, "caller": job.caller, "chains": job.chains, "record": fields}
        entry["bytes"] = expected
        if most is not None:
            entry["most"] = most
        entry |= {"cost": job.cost, "quick": job.cost <= QUICK_TICKS * job.chains}
        if job.work:
            fields += [keys.WORK, f"{job.work:g}"]
        if job.only_decodes:
            entry["decodes"] = True
            fields += [keys.DECODES, "1"]
        if (expires_after_s := job.expires_after_s) is not None:  # kept long enough to say that it expired
            entry |= {"ttl": int(expires_after_s) + 1 + self._limits.result_ttl_s, "expires_at": str(now + expires_after_s)}
            fields += [keys.EXPIRES_AT, entry["expires_at"], "ttl", str(entry["ttl"])]
        if reply:
            fields += [keys.REPLY, reply]
        call = f'["{FUNCTION}", null, [], {{"job": {job.model_dump_json()}}}]'
        return json.dumps(entry), zlib.compress(call.encode(), UNCOMPRESSED)

    def _record(self, queue: Queue) -> list[str]:
        """The fields of RQ's job hash that all jobs of this queue have in common: names and values in turn."""
        job = queue.create_job(
            FUNCTION,
            timeout=routing.KIND_OF_QUEUE[queue.name].timeout_s or self._limits.job_timeout_s,
            result_ttl=self._limits.result_ttl_s,
            failure_ttl=self._limits.failure_ttl_s,
            retry=Retry(max=1, enqueue_at_front=True),  # killed twice: failed
        )
        job.origin = queue.name
        common = {name: value for name, value in job.to_dict().items() if name not in OF_EACH}
        return [word for name, value in common.items() for word in (name, value.decode() if isinstance(value, bytes) else str(value))]
