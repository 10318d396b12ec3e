"""The RQ worker that runs many jobs at once: the engine steps in the main thread, Redis has a thread of its own, large PNGs have others.

    Redis thread: take what fits -> main thread: admit, tick -> encoders: PNG -> Redis thread: store, end, offer to take more

Where an offer stands, the next submission takes for this worker and sends it the jobs: the thread that listens admits them.

While Redis is away the engine keeps stepping and what has ended waits. A job whose lease ran out meanwhile is dropped here, because
somebody else has it. Every call of RQ's that is not public stands here, in `rq_bulk` or in `rq_maintenance`.
"""

import threading
import time
from typing import TYPE_CHECKING, Any, cast

from rq import Queue
from rq.command import parse_payload
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import BaseWorker, WorkerStatus
from rq.worker_registration import register

from workers import keys, queues
from workers.artifacts import Artifacts
from workers.broker import Broker
from workers.connection import AWAY
from workers.encoders import Encoders
from workers.intake import LOOK_EVERY_S, Intake
from workers.jobs import Problem, Progress
from workers.listening import Listening
from workers.load import load
from workers.metrics import WorkerMetrics
from workers.quarantine import Quarantine
from workers.rq_bulk import LOST, STOP, Bulk, Ended
from workers.rq_maintenance import maintain
from workers.settings import WorkerSettings
from workers.stepping import Leave, StepLoop, Steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from workers.outcomes import Failed, Finished

SWEEP_EVERY_S = 600.0
SHOW_EVERY_S = 0.1  # whether it is busy: a job may take less time than it takes to say so
RETRY_EVERY_S = 0.2  # while Redis does not answer


class BatchWorker(BaseWorker):
    """Serves the queues of generation until told to stop."""

    def __init__(self, engine: Steps, broker: Broker, artifacts: Artifacts, settings: WorkerSettings, metrics: WorkerMetrics) -> None:
        self._watched = [Queue(name, connection=broker.redis, serializer=JSONSerializer) for name in queues.QUEUES]
        *self._shared, alone, _training = self._watched
        super().__init__([*self._shared, alone], connection=broker.redis, serializer=JSONSerializer, worker_ttl=settings.lease_s)
        self._settings, self._metrics = settings, metrics
        self._wake = threading.Event()  # the Redis thread has something to do
        self._bulk = Bulk(broker, self.name, self.key, settings.lease_s)
        self._quarantine = Quarantine(self._bulk, self._shared, alone)
        self._encoders = Encoders(artifacts, settings, self.name, self._wake.set)
        self._loop = StepLoop(engine, self._deliver, lambda: self._intake.room_changed())
        self._intake = Intake(self._bulk, self._quarantine, self._loop, self._encoders.fail, self._wake.set)
        self._ended: list[Ended] = []  # over here, not yet in Redis
        self._told: dict[str, Progress] = {}
        self._due = {self._beat: 0.0, self._maintain: 0.0, self._sweep: 0.0, self._show_state: 0.0}
        self._burst = self._crashed = self._suspended = False
        self._turned_at = time.monotonic()
        metrics.watch("stepping", lambda: self._loop.turned_at)
        metrics.watch("redis", lambda: self._turned_at)

    # Main thread

    def work(self, burst: bool = False, *args: Any, **kwargs: Any) -> bool:
        """Runs until SIGTERM, SIGINT or, with `burst`, until the queues are empty; what has started is always finished."""
        self._burst, self._intake.offering = burst, not burst
        self.bootstrap(logging_level=None)
        self._install_signal_handlers()  # type: ignore[no-untyped-call]
        redis_thread = threading.Thread(target=self._serve, name="redis")
        redis_thread.start()
        try:
            self._loop.run()
        except BaseException:
            self._crashed = True
            raise
        finally:
            self._wake.set()
            self._encoders.close()
            redis_thread.join()
            self.teardown()  # type: ignore[no-untyped-call]
        return True

    def _deliver(self, outcomes: "Sequence[Finished | Failed]") -> None:
        """What the engine gave back goes to the encoders; the engine knows our executions, not jobs."""
        finished = []
        for outcome in outcomes:
            job = self._intake.running.get(outcome.job_id)
            if job is None:
                continue  # somebody else has it by now
            problem: Problem | None = getattr(outcome, "problem", None)
            if problem:
                self._encoders.fail(job, problem)
            else:
                finished.append((job, cast("Finished", outcome)))
        self._encoders.submit(finished)

    def _shutdown(self) -> None:
        """RQ's signal handlers end here: take no more jobs. (RQ's own raises wherever the main thread happens to be.)

        Nothing here may take a lock, such as that of `_wake`: the main thread may have been interrupted while it held it.
        """
        self._stop_requested = True

    # The thread that listens

    def subscribe(self) -> None:
        """Listens for commands to this worker, for submissions, and for jobs that one of them started for this worker."""
        ours = {keys.SUBMITTED: self._intake.hear_submission, keys.handed(self.name): self._intake.hear_jobs}
        handlers = {self.pubsub_channel_name: self.handle_payload} | ours
        self._listening = Listening(self.connection, handlers, self._intake.miss_messages, lambda error: self._loop.send(Leave(error)))

    def unsubscribe(self) -> None:
        self._listening.stop()

    def handle_payload(self, message: Any) -> None:
        """`stop-job` and `stop-execution` end that job alone; RQ's own look at one job a worker."""
        payload = parse_payload(message)
        if payload["command"] in ("stop-job", "stop-execution"):
            self._intake.stop(payload)
        else:
            super().handle_payload(message)  # type: ignore[no-untyped-call]

    # Redis thread

    def _serve(self) -> None:
        """Keeps Redis and the engine in step until there is nothing left to do."""
        error: BaseException | None = None
        try:
            while not self._crashed and self._turn_or_retry():
                self._wake.wait(self._pause())
                self._wake.clear()
        except BaseException as caught:
            error = caught
        self._loop.send(Leave(error))
        if self._crashed or error:
            self._give_up()

    def _turn_or_retry(self) -> bool:
        try:
            return self._turn()
        except AWAY as away:
            self._metrics.redis_errors.inc()
            self._intake.unheard = True
            self.log.warning("Worker %s: Redis does not answer, trying again: %s", self.name, away)
            time.sleep(RETRY_EVERY_S)
            return True

    def _turn(self) -> bool:
        """One round of everything; False when nothing is left to do and nobody wants more."""
        self._turned_at = time.monotonic()
        if self._stop_requested and self._intake.open:
            self._intake.close()
        if self._intake.unheard:
            self._intake.return_unheard()
        for task in [task for task, due in self._due.items() if due <= time.monotonic()]:
            task()
        self._end()
        took = self._should_look() and self._take()
        return bool(self._intake.running) or (self._intake.open and (took or not self._burst))

    def _pause(self) -> float:
        return max(0.0, min(LOOK_EVERY_S, min(self._due.values()) - time.monotonic()))

    def _should_look(self) -> bool:
        return self._intake.open and not self._suspended and (self._burst or self._intake.should_look())

    def _take(self) -> bool:
        """False when there was nothing to start."""
        if room := self._loop.room:
            self._metrics.free.set(room.free)
        taken = self._intake.take()
        return taken is None or bool(taken)

    def _end(self) -> None:
        self._ended += self._encoders.ended()
        if not self._ended:
            return
        room = self._intake.room_beside(self._ended)
        ours, offered = self._bulk.end_and_offer(self._ended, self._shared, room)
        if room and not offered:
            self._intake.look_again()
        self._intake.forget([one.taken for one in self._ended])
        self._ended = []
        for one in ours:
            self._metrics.ended(one.taken.request, one.status, one.taken.created_at, getattr(one.outcome, "timings", None))

    def _beat(self) -> None:
        """Signs of life: for the worker and every running job. What comes back tells of jobs to stop and jobs lost."""
        jobs, progress = list(self._intake.running.values()), self._loop.progress
        news = {label: told for label, told in progress.items() if self._told.get(label) != told}
        for job, answer in zip(jobs, self._bulk.beat(jobs, news), strict=True):
            if answer == STOP:
                self._intake.cancel(job, Problem(reason="canceled", detail="canceled on request"))
            elif answer == LOST:
                self._intake.forget([job])
                self._intake.cancel(job, Problem(reason="abandoned", detail="the lease ran out"))
        self._told = progress
        self._beat_worker()
        self._due[self._beat] = time.monotonic() + self._settings.heartbeat_s

    def _beat_worker(self) -> None:
        self._metrics.capacity.set(capacity := self._loop.capacity)
        requests = {label: job.request for label, job in self._intake.running.items() if job.request}
        about: dict[Any, Any] = {"device": self._settings.device}
        about |= load(requests, self._loop.progress, capacity, dict(self._metrics.tables))
        about |= {name: lately for name, ratio in self._metrics.ratios.items() if (lately := ratio.lately())}
        with self.connection.pipeline() as pipe:
            self.heartbeat(self._settings.lease_s, pipeline=pipe)
            pipe.hset(self.key, mapping=about)
            pipe.llen(self._quarantine.alone.key)
            newly_known, *_, alone = pipe.execute()
        self._quarantine.told(alone)
        if newly_known:  # it had expired while Redis or this process was away
            with self.connection.pipeline() as pipe:
                pipe.hset(self.key, mapping=self.serialize())
                register(self, pipe)
                pipe.execute()
        self._suspended = bool(is_suspended(self.connection))
        self._intake.offer(self._intake.open and not (self._burst or self._suspended))

    def _maintain(self) -> None:
        self._intake.return_unheard()
        found = maintain(self, self._watched)
        self.last_cleaned_at = now()  # type: ignore[assignment]
        self._metrics.abandoned.labels("requeued").inc(len(found.requeued))
        self._metrics.abandoned.labels("failed").inc(len(found.failed))
        self._due[self._maintain] = time.monotonic() + self._settings.maintenance_s

    def _sweep(self) -> None:
        self._encoders.sweep()
        self._due[self._sweep] = time.monotonic() + SWEEP_EVERY_S

    def _show_state(self) -> None:
        self._metrics.running.set(len(self._intake.running))
        state = WorkerStatus.BUSY if self._intake.running else WorkerStatus.SUSPENDED if self._suspended else WorkerStatus.IDLE
        if state != self.get_state():
            self.set_state(state)
        self._due[self._show_state] = time.monotonic() + SHOW_EVERY_S

    def _give_up(self) -> None:
        """After a crash: hands running jobs to whoever comes next, rather than let them wait for the lease to run out."""
        try:
            self._intake.close()
            self._intake.return_unheard()
            self._bulk.abandon(list(self._intake.running.values()))
            maintain(self, self._watched)
        except AWAY as away:
            self.log.warning("Worker %s: left without Redis: %s", self.name, away)
