"""RQ's forking worker: each job in a process of its own, killable, its memory freed at the end; a job whose worker died starts again."""

import ctypes
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from typing import Any

from rq import Queue, Worker
from rq.exceptions import AbandonedJobError, DequeueTimeout
from rq.executions import Execution
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker_registration import register

from workers.jobs import Status
from workers.queue import routing
from workers.queue.broker import Broker
from workers.queue.connection import is_away, is_full
from workers.queue.scripts import script
from workers.settings import WorkerSettings
from workers.training.process import LOST, STOP
from workers.training.reports import unless_full

LEASE_S = 6  # seconds after the last sign of life at which a job counts as abandoned
LOOK_EVERY_S = 0.25  # for jobs, where there is more than one queue
PR_SET_PDEATHSIG = 1  # linux/prctl.h
ROOM_EVERY_S = 1.0  # between two tries to store a result in a full Redis


class SafeQueue(Queue):
    """Pops a job into RQ's intermediate list, from which it is recovered when its worker dies before it starts.

    RQ's own `lpop`, which serves several queues, loses such a job.
    """

    @classmethod
    def lpop(cls, queue_keys: Sequence[str], timeout: int | None, connection: Any = None) -> Any:
        """(queue key, job id) of the first job. Waits `timeout` seconds for one, then raises DequeueTimeout; None does not wait."""
        give_up_at = time.monotonic() + (timeout or 0)
        while True:
            try:
                for key in queue_keys:
                    if found := cls.lmove(connection, key, None):
                        return found
            except Exception as error:
                if not is_full(error):  # then jobs wait in their queues
                    raise
            if timeout is None:
                return None
            if time.monotonic() >= give_up_at:
                raise DequeueTimeout(timeout, queue_keys)
            time.sleep(LOOK_EVERY_S)


class ForkingWorker(Worker):
    """Serves the queues of all kinds of jobs that have a handler, one job at a time."""

    queue_class = SafeQueue
    max_connection_wait_time = 5.0  # between two tries while Redis is away; RQ's own is a minute

    def __init__(self, broker: Broker, settings: WorkerSettings) -> None:
        super().__init__(
            [SafeQueue(name, connection=broker.redis, serializer=JSONSerializer) for name in routing.FORKED_QUEUES],
            connection=broker.redis,
            serializer=JSONSerializer,
            worker_ttl=20,  # RQ waits for a job 15 s less than that between two maintenances
            job_monitoring_interval=2,
            maintenance_interval=max(1, int(settings.maintenance_s)),
            exception_handlers=[only_lost_jobs_try_again],
        )
        self.broker = broker
        self._runs_folder = settings.runs_folder
        self.running: str | None = None  # the id of a job
        self.jobs_ended = 0
        self.turned_at = time.monotonic()
        self.redis_errors = 0
        self._lost = False
        self._renew = broker.redis.register_script(script("renew"))

    def execute_job(self, job: Job, queue: Queue) -> None:
        """Runs a job in a process of its own, then announces its end."""
        self.running, self._lost = job.id, False
        try:
            super().execute_job(job, queue)
        finally:
            self.running = None
        if self._lost:
            return
        self.jobs_ended += 1
        if self.broker.announce_end(job.id).status is Status.CANCELED:
            shutil.rmtree(self._runs_folder / job.id, ignore_errors=True)  # it is never resumed

    def prepare_job_execution(self, job: Job, remove_from_intermediate_queue: bool = True) -> None:
        """Marks a job as started, in its process. RQ leaves jobs of a worker with several queues in the intermediate list."""
        super().prepare_job_execution(job, remove_from_intermediate_queue=True)
        self.broker.publish(job.id, "started", {"worker": self.name})

    def heartbeat(self, timeout: int | None = None, pipeline: Any = None) -> None:
        """RQ's heartbeat, sent while it waits for a job and every few seconds while one runs. Counts heartbeats that Redis did not get."""
        self.turned_at = time.monotonic()
        with unless_full():
            try:
                super().heartbeat(timeout, pipeline)
                if pipeline is None:
                    self._reappear()
            except Exception as error:
                self.redis_errors += is_away(error)
                raise

    def _reappear(self) -> None:
        """Registers again where the worker's record had expired while Redis was away or full: a heartbeat brings back its time alone."""
        if self.birth_date is not None and not self.connection.hexists(self.key, "queues"):  # it has one since it registered
            with self.connection.pipeline() as pipe:
                pipe.hset(self.key, mapping=self.serialize())
                self.set_state(self.get_state(), pipe)  # a record without a state is left out of `rq info`
                register(self, pipe)
                pipe.execute()

    def maintain_heartbeats(self, job: Job, execution: Execution) -> None:
        """RQ's heartbeat of the worker and its job; of these a full Redis gets the job's lease alone, so that no other worker takes it."""
        try:
            super().maintain_heartbeats(job, execution)
        except Exception as error:
            if not is_full(error):
                raise
            lease = {"origin": job.origin, "execution": execution.composite_key, "lasts": LEASE_S, "ends": time.time() + LEASE_S}
            with unless_full():  # its disk may be full
                self._renew(args=[json.dumps(lease)])

    def set_state(self, state: str, pipeline: Any = None) -> None:
        with unless_full():
            super().set_state(state, pipeline)

    def run_maintenance_tasks(self) -> None:
        with unless_full():
            super().run_maintenance_tasks()  # type: ignore[no-untyped-call]

    def handle_job_success(self, job: Job, queue: Queue, started_job_registry: Any, execution: Execution) -> None:
        """Writes the result of a job, in its process, once Redis has room for it."""
        while True:
            try:
                super().handle_job_success(job, queue, started_job_registry, execution)
                return
            except Exception as error:
                if not is_full(error):
                    raise
                self.log.warning("Worker %s: the result of job %s waits for room in Redis: %s", self.name, job.id, error)
                time.sleep(ROOM_EVERY_S)

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        """RQ's own is a minute longer."""
        return LEASE_S

    def handle_warm_shutdown_request(self) -> None:
        """Leaving must not take as long as a training run: the job saves, goes back to its queue and resumes with another worker."""
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
        """Leaves a job alone that another worker got while this one was away; RQ would requeue it once more."""
        if not self._lost:
            super().handle_job_failure(job, queue, started_job_registry, exc_string, execution)
            return
        with self.connection.pipeline() as pipe:
            self.cleanup_execution(job, pipe, execution)
            pipe.execute()


def die_with(parent: int) -> None:
    """Has the kernel kill this process as soon as its parent dies. Elsewhere than on Linux `JobEvents` notices between two steps."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the call
            os._exit(LOST)


def only_lost_jobs_try_again(job: Job, kind: type[BaseException], *rest: Any) -> bool:
    """Runs a job again only where its process died: a job that raised an error would raise it again."""
    if not issubclass(kind, AbandonedJobError):
        job.retries_left = 0
    return True
