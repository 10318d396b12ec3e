"""Puts jobs into RQ's queues, all of a call in one script: the record that RQ itself would write is made once and filled in for each."""

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

from workers.jobs import AnyJob
from workers.queue import keys, routing
from workers.queue.connection import BrokerLimits, connect_async, guarded
from workers.queue.rq_scripts import SUBMIT
from workers.queue.script_names import named
from workers.queue.turns import OFFER_S

FUNCTION = "workers.jobs.run"  # of every queued job
RECENT_KEPT = 1000
QUICK_TICKS = 100  # a job whose chains need no more may not have to wait for room, so that workers are told of it at once
OF_EACH = ("data", "created_at", "description", "status")  # RQ's fields that differ from job to job
NOT_PACKED = 0  # zlib's level: RQ reads zlib, but a request is too short to be worth the time of packing and unpacking it


class Submission(NamedTuple):
    """A job under the id it will have; `reply` is where a file of it goes as soon as it has ended: a channel, a space and the name."""

    job: AnyJob
    job_id: str
    reply: str = ""


class AsyncSubmissions:
    """Submits from an event loop: a thread in between would cost more than the submission."""

    def __init__(self, broker_redis: Redis, url: str, limits: BrokerLimits) -> None:
        self._words = Submissions(broker_redis, limits).words
        self._redis = connect_async(url)
        self._submit = self._redis.register_script(named(SUBMIT))

    async def __call__(self, submissions: Sequence[Submission]) -> Sequence[int]:
        """Queues all the jobs in one round trip, or none of them; for each, the chain-steps that wait now. Raises BrokerUnavailable."""
        with guarded():
            waiting: int = await self._submit(args=self._words(submissions))
        return [waiting] * len(submissions)

    async def close(self) -> None:
        await self._redis.aclose()


class Submissions:
    """Writes what the script reads; whoever calls it, blocking or not, sends it."""

    def __init__(self, redis: Redis, limits: BrokerLimits) -> None:
        self._limits = limits
        self._records = {name: self._record(Queue(name, connection=redis, serializer=JSONSerializer)) for name in routing.QUEUES}

    def words(self, submissions: Sequence[Submission]) -> list[Any]:
        """Arguments of SUBMIT, which queues all the jobs or none; one whose id is known already stays as it is."""
        now = time.time()
        moment = utcformat(datetime.fromtimestamp(now, UTC))
        terms = {"unix": f"{now:.6f}", "now": moment, "kept": self._limits.failure_ttl_s, "execution": uuid4().hex[:29]}
        origins = {submission.job.queue for submission in submissions}
        times = ("created_at", moment, "enqueued_at", moment, keys.ENTERED_AT, f"{now:.6f}")
        records = {origin: [*self._records[origin], *times] for origin in origins}
        words: list[Any] = [json.dumps(terms | {"recent_kept": RECENT_KEPT, "offer_lasts": OFFER_S, "records": records})]
        for submission in submissions:
            words += self._words(submission, now)
        return words

    def _words(self, submission: Submission, now: float) -> tuple[str, bytes]:
        """What the script reads of one job, as JSON, and RQ's record of the call: few words, since each takes redis-py its time."""
        job, job_id, reply = submission
        fields = ["description", job.describe(), keys.CHAINS, str(job.chains), keys.CALLER, job.caller]
        told: dict[str, Any] = {"id": job_id, "origin": job.queue, "caller": job.caller, "chains": job.chains, "record": fields}
        told |= {"cost": job.cost, "quick": job.cost <= QUICK_TICKS * job.chains}
        if job.only_decodes:
            told["decodes"] = True
            fields += [keys.DECODES, "1"]
        if (expires_after_s := job.expires_after_s) is not None:  # kept long enough to say that it expired
            told |= {"ttl": int(expires_after_s) + 1 + self._limits.result_ttl_s, "expires_at": str(now + expires_after_s)}
            fields += [keys.EXPIRES_AT, told["expires_at"], "ttl", str(told["ttl"])]
        if reply:
            fields += [keys.REPLY, reply]
        call = f'["{FUNCTION}", null, [], {{"job": {job.model_dump_json()}}}]'
        return json.dumps(told), zlib.compress(call.encode(), NOT_PACKED)

    def _record(self, queue: Queue) -> list[str]:
        """What RQ keeps of a job of this queue, as far as all of them have it in common and it stays so: fields and values in turn."""
        job = queue.create_job(
            FUNCTION,
            timeout=routing.KIND_OF_QUEUE[queue.name].timeout_s or self._limits.job_timeout_s,
            result_ttl=self._limits.result_ttl_s,
            failure_ttl=self._limits.failure_ttl_s,
            retry=Retry(max=1, enqueue_at_front=True),  # killed twice: failed
        )
        job.origin = queue.name
        kept = {name: value for name, value in job.to_dict().items() if name not in OF_EACH}
        return [word for name, value in kept.items() for word in (name, value.decode() if isinstance(value, bytes) else str(value))]
