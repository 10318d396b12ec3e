"""The RQ worker that runs many jobs at once: the engine steps in its own process; this process talks to Redis and encodes PNG files.

    take what fits -> engine's process: admit, tick -> PNG, large ones in threads -> store, end, offer to take more

Where an offer stands, the next submission takes for this worker and sends it the jobs.

While Redis is away the engine keeps stepping and what has ended waits. A job whose lease ran out meanwhile is dropped here, because
another worker has it.
"""

import time
from typing import Any

from rq import Queue
from rq.command import parse_payload
from rq.serializers import JSONSerializer
from rq.suspension import is_suspended
from rq.utils import now
from rq.worker import WorkerStatus
from rq.worker_registration import register

from workers.generation.encoding import Encoders
from workers.generation.engine_process import EngineProcess
from workers.generation.intake import LOOK_EVERY_S, Intake
from workers.generation.metrics import WorkerMetrics
from workers.generation.reports import JobReports
from workers.jobs import Problem, Progress
from workers.jobs.generate import ALONE_QUEUE, GENERATE_QUEUES
from workers.leases.leases import LOST, STOP, Ended, Leases
from workers.leases.maintenance import maintain
from workers.leases.quarantine import Quarantine
from workers.leases.stopping import StoppableWorker
from workers.leases.subscription import Subscription
from workers.messages import EngineTicked, Failed, Turn
from workers.queue import keys, routing
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker
from workers.queue.connection import is_away
from workers.queue.worker_load import load
from workers.settings import WorkerSettings

SWEEP_EVERY_S = 600.0
SHOW_EVERY_S = 0.1  # between two updates of the worker's state; a short job takes less time than an update
RETRY_EVERY_S = 0.2  # while Redis does not answer or has no room
WARN_EVERY_S = 10.0  # that this is so


class BatchWorker(StoppableWorker):
    """Serves the queues of generation until it is stopped. It waits for the engine to be ready, and ends it when it leaves."""

    def __init__(
        self,
        engine: EngineProcess,
        broker: Broker,
        artifacts: Artifacts,
        settings: WorkerSettings,
        *,
        metrics: WorkerMetrics,
        reports: JobReports,
    ) -> None:
        queues = {name: Queue(name, connection=broker.redis, serializer=JSONSerializer) for name in routing.QUEUES}
        self._watched, self._shared, alone = list(queues.values()), [queues[name] for name in GENERATE_QUEUES], queues[ALONE_QUEUE]
        super().__init__([*self._shared, alone], connection=broker.redis, serializer=JSONSerializer, worker_ttl=settings.lease_s)
        self._engine, self._settings, self._metrics, self._reports = engine, settings, metrics, reports
        engine.await_ready()
        self._leases = Leases(broker, self.name, self.key, settings.lease_s)
        self._quarantine = Quarantine(self._leases, self._shared, alone)
        about = settings.model_copy(update={"device": engine.device})
        self._encoders = Encoders(artifacts, about, self.name, engine.wake)
        self._intake = Intake(self._leases, self._quarantine, engine, self._encoders.fail)
        self._ended: list[Ended] = []  # ended by the engine, not yet in Redis
        self._told: dict[str, Progress] = {}
        self._due = {self._beat: 0.0, self._maintain: 0.0, self._sweep: 0.0, self._show_state: 0.0}
        self._burst = self._suspended = False
        self._turned_at, self._warn_at = time.monotonic(), 0.0
        metrics.watch("stepping", lambda: engine.told_at)
        metrics.watch("redis", lambda: self._turned_at)

    def work(self, burst: bool = False, *args: Any, **kwargs: Any) -> bool:
        """Runs until SIGTERM, SIGINT or, with `burst`, until the queues are empty; what has started is always finished."""
        self._burst, self._intake.offering = burst, not burst
        self.bootstrap(logging_level=None)
        self.handle_signals()
        try:
            while self._turn_or_retry():
                self._engine.wait(self._pause(), self._subscription)
        except BaseException:
            self._give_up()
            raise
        finally:
            self._encoders.close()
            self._engine.close()
            self._reports.close()
            self.teardown()  # type: ignore[no-untyped-call]
        return True

    def _hear_engine(self, turn: Turn) -> None:
        """Passes on what the engine sent. It names executions; one that this worker no longer holds is ignored."""
        for measurement in turn.measurements:
            self._metrics.record(measurement)
            if isinstance(measurement, EngineTicked):
                self._reports.ticked(self._intake.running, measurement.seconds)
        ours = [(job, outcome) for outcome in turn.outcomes if (job := self._intake.running.get(outcome.job_id))]
        for job, outcome in ours:
            if isinstance(outcome, Failed):
                self._encoders.fail(job, outcome.problem)
        self._encoders.encode([(job, outcome) for job, outcome in ours if not isinstance(outcome, Failed)])

    def stop(self) -> None:
        """Asks the worker to leave, at once where it waits for the engine."""
        super().stop()
        self._engine.wake()

    def subscribe(self) -> None:
        """Subscribes to commands to this worker, submissions, and jobs that a submission started for it; `_turn` reads them."""
        ours = {keys.SUBMITTED: self._intake.hear_submission, keys.assigned(self.name): self._intake.hear_jobs}
        handlers = {self.pubsub_channel_name: self.handle_payload} | ours
        self._subscription = Subscription(self.connection, handlers, self._intake.miss_messages)

    def unsubscribe(self) -> None:
        self._subscription.close()

    def handle_payload(self, message: Any) -> None:
        """`stop-job` and `stop-execution` end that job alone; RQ's own worker knows one job at a time."""
        payload = parse_payload(message)
        if payload["command"] in ("stop-job", "stop-execution"):
            self._intake.stop(payload)
        else:
            super().handle_payload(message)  # type: ignore[no-untyped-call]

    def _turn_or_retry(self) -> bool:
        try:
            return self._turn()
        except Exception as error:
            if not is_away(error):
                raise
            self._metrics.redis_errors.inc()
            self._intake.unheard = True
            if time.monotonic() >= self._warn_at:
                self.log.warning("Worker %s: Redis does not answer or has no room, trying again: %s", self.name, error)
                self._warn_at = time.monotonic() + WARN_EVERY_S
            time.sleep(RETRY_EVERY_S)
            return True

    def _turn(self) -> bool:
        """One round of everything; False when no job runs and the worker takes no more."""
        self._turned_at = time.monotonic()
        for turn in self._engine.receive():
            self._hear_engine(turn)
        self._subscription.read()
        if self.stopping and self._intake.open:
            self._intake.close()
        if self._intake.unheard:
            self._intake.return_unheard()
        self._end()  # before the heartbeats, which a full Redis refuses: who waits for a job hears of its end
        for task in [task for task, due in self._due.items() if due <= time.monotonic()]:
            task()
        took = self._should_look() and self._take()
        return bool(self._intake.running) or (self._intake.open and (took or not self._burst))

    def _pause(self) -> float:
        return max(0.0, min(LOOK_EVERY_S, min(self._due.values()) - time.monotonic()))

    def _should_look(self) -> bool:
        return self._intake.open and not self._suspended and (self._burst or self._intake.should_look())

    def _take(self) -> bool:
        """False when there was nothing to start."""
        if room := self._engine.room:
            self._metrics.free.set(room.free)
        taken = self._intake.take()
        return taken is None or bool(taken)

    def _end(self) -> None:
        self._ended += self._encoders.ended()
        if not self._ended:
            return
        room = self._intake.room_beside(self._ended)
        ours, offered = self._leases.end_and_offer(self._ended, self._shared, room)
        if room and not offered:
            self._intake.look_again()
        self._intake.forget([one.taken for one in self._ended])
        self._ended = []
        for one in ours:
            self._metrics.ended(one.taken.request, one.status, one.taken.created_at, getattr(one.outcome, "timings", None))
        self._reports.ended(ours)

    def _beat(self) -> None:
        """Sends heartbeats for the worker and every running job; the answers name jobs to stop and jobs whose lease is lost."""
        jobs, progress = list(self._intake.running.values()), self._engine.progress
        news = {label: told for label, told in progress.items() if self._told.get(label) != told}
        for job, answer in zip(jobs, self._leases.beat(jobs, news), strict=True):
            if answer == STOP:
                self._intake.end(job, Problem(reason="canceled", detail="canceled on request"))
            elif answer == LOST:
                self._intake.forget([job])
                self._intake.end(job, Problem(reason="abandoned", detail="the lease ran out"))
        self._told = progress
        self._beat_worker()
        self._due[self._beat] = time.monotonic() + self._settings.heartbeat_s

    def _beat_worker(self) -> None:
        self._metrics.capacity.set(capacity := self._engine.capacity)
        requests = {label: job.request for label, job in self._intake.running.items() if job.request}
        about: dict[Any, Any] = {"device": self._engine.device, "progress_age_s": time.monotonic() - self._engine.progress_at}
        about |= load(requests, self._engine.progress, capacity, self._metrics.tables)
        about |= {name: lately for name, ratio in self._metrics.ratios.items() if (lately := ratio.lately())}
        with self.connection.pipeline() as pipe:
            self.heartbeat(self._settings.lease_s, pipeline=pipe)
            pipe.hset(self.key, mapping=about)
            pipe.llen(self._quarantine.alone.key)
            newly_known, *_, alone = pipe.execute()
        self._quarantine.note_waiting(alone)
        if newly_known:  # it had expired while Redis or this process was away
            with self.connection.pipeline() as pipe:
                pipe.hset(self.key, mapping=self.serialize())
                self.set_state(self.get_state(), pipe)  # a record without a state is left out of `rq info`
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
        self._metrics.forget()
        self._due[self._sweep] = time.monotonic() + SWEEP_EVERY_S

    def _show_state(self) -> None:
        self._metrics.running.set(len(self._intake.running))
        state = WorkerStatus.BUSY if self._intake.running else WorkerStatus.SUSPENDED if self._suspended else WorkerStatus.IDLE
        if state != self.get_state():
            self.set_state(state)
        self._due[self._show_state] = time.monotonic() + SHOW_EVERY_S

    def _give_up(self) -> None:
        """After a crash: requeues running jobs at once instead of when their lease runs out."""
        try:
            self._intake.close()
            self._intake.return_unheard()
            self._leases.abandon(list(self._intake.running.values()))
            maintain(self, self._watched)
        except Exception as error:
            if not is_away(error):
                raise
            self.log.warning("Worker %s: left without Redis: %s", self.name, error)
