"""RQ's forking worker for training: a job a process, killable, its memory freed at the end; a killed one resumes where it last saved."""

import ctypes
import os
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis import exceptions
from rq import Queue, Worker
from rq.exceptions import AbandonedJobError
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer

from workers.jobs import Status
from workers.queue import routing
from workers.queue.broker import Broker
from workers.queue.connection import BrokerUnavailable
from workers.settings import WorkerSettings
from workers.training.job import LOST, STOP

LEASE_S = 6  # seconds after the last sign of life at which a training job counts as abandoned
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError)


class TrainWorker(Worker):
    """Serves the queue of training jobs, one at a time."""

    max_connection_wait_time = 5.0  # between two tries while Redis is away; RQ's own is a minute

    def __init__(self, broker: Broker, settings: WorkerSettings) -> None:
        queue = Queue(routing.TRAIN_QUEUE, connection=broker.redis, serializer=JSONSerializer)
        super().__init__(
            [queue],
            connection=broker.redis,
            serializer=JSONSerializer,
            worker_ttl=20,  # RQ waits for a job 15 s less than that before it looks after others again
            job_monitoring_interval=2,
            maintenance_interval=max(1, int(settings.maintenance_s)),
            exception_handlers=[only_lost_jobs_try_again],
        )
        self.broker = broker
        self._runs_folder = settings.runs_folder
        self.training: str | None = None
        self.jobs_ended = 0
        self.turned_at = time.monotonic()
        self.redis_errors = 0
        self._lost = False

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs a job in a process of its own, then tells whoever waits for it."""
        self.training, self._lost = job.id, False
        try:
            super().execute_job(job, queue)
        finally:
            self.training = None
        if self._lost:
            return
        self.jobs_ended += 1
        if self.broker.announce_end(job.id).status is Status.CANCELED:
            shutil.rmtree(self._runs_folder / job.id, ignore_errors=True)  # nobody will resume it

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ's sign of life, in every wait for a job and every few seconds while one runs; Redis need not be there to hear it."""
        self.turned_at = time.monotonic()
        try:
            super().heartbeat(timeout, pipeline)
        except _AWAY:
            self.redis_errors += 1
            raise

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """RQ's own is a minute longer."""
        return LEASE_S

    def handle_warm_shutdown_request(self) -> None:
        """Leaving must not take as long as a training run: the job saves, goes back to its queue and resumes elsewhere."""
        super().handle_warm_shutdown_request()  # type: ignore[no-untyped-call]
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)

    def setup_work_horse_signals(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, STOP.note)
        assert self.pid is not None  # of the worker: RQ gives this process none
        die_with(self.pid)

    def handle_work_horse_killed(self, job: Job, retpid: Any, ret_val: Any, rusage: Any) -> None:
        self._lost = ret_val is not None and os.waitstatus_to_exitcode(ret_val) == LOST

    def handle_job_failure(
        self, job: Job, queue: Queue, started_job_registry: Any = None, exc_string: str = "", execution: Execution | None = None
    ) -> None:
        """A job that went to another worker while this one was away is no longer this one's to end; RQ would put it back once more."""
        if not self._lost:
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
            return
        with self.connection.pipeline() as pipe:
            self.cleanup_execution(job, pipe, execution)
            pipe.execute()


def die_with(parent: int) -> None:
    """Has the kernel kill this process as soon as its parent dies; where there is no Linux, `JobEvents` notices between two steps."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was dead before that
            os._exit(LOST)


def only_lost_jobs_try_again(job: Job, kind: type[BaseException], *rest: Any) -> bool:
    """A run that failed by itself would fail again; only one that lost its process deserves another."""
    if not issubclass(kind, AbandonedJobError):
        job.retries_left = 0
    return True


class TrainingCollector(Collector):
    """What the running job last told: its process is not ours, so Redis is asked at each scrape."""

    def __init__(self, worker: TrainWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("ebbtide_redis_errors", "Signs of life that Redis did not take", self._worker.redis_errors)
        yield CounterMetricFamily("ebbtide_training_jobs", "Training jobs that ran to an end here", self._worker.jobs_ended)
        age = GaugeMetricFamily("ebbtide_loop_age_seconds", "Since a thread last began a turn", labels=["thread"])
        age.add_metric(["training"], time.monotonic() - self._worker.turned_at)
        yield age
        step = GaugeMetricFamily("ebbtide_training_step", "Steps made by the run under way", labels=["model"])
        metric = GaugeMetricFamily("ebbtide_training_metric", "Last figures told by the run under way", labels=["model", "metric"])
        for model, values in self._told():
            step.add_metric([model], float(values.pop("step")))
            for name, value in values.items():
                metric.add_metric([model, name], float(value))
        yield from (step, metric)

    def _told(self) -> Iterator[tuple[str, dict[str, Any]]]:
        job_id = self._worker.training
        if job_id is None:
            return
        try:
            told = [event.data for event in self._worker.broker.events(job_id) if event.name == "metrics"]
            if told:
                job = self._worker.broker.view(job_id).job
                yield (job.name if job.kind == "train" else job.model), dict(told[-1])
        except BrokerUnavailable:
            return  # a scrape without figures says it all
