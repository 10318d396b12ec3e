"""Takes jobs from the queues, and accepts jobs that a submission started for this worker."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from workers.capacity import Room
from workers.generation.engine_process import EngineProcess
from workers.jobs import Problem
from workers.leases.leases import Ended, Leases, Taken, read_jobs
from workers.leases.quarantine import Quarantine
from workers.messages import Admit

ON_ITS_WAY_S = 1.0  # how long the message with a job that was started for this worker may take
LOOK_EVERY_S = 0.5  # between two reads of the queues: jobs requeued by hand are not announced


class Intake:
    """The jobs that a worker has started and not ended, and its ways to get more."""

    def __init__(self, leases: Leases, quarantine: Quarantine, engine: EngineProcess, refuse: Callable[[Taken, Problem], None]) -> None:
        self._leases, self._quarantine, self._engine, self._refuse = leases, quarantine, engine, refuse
        self.running: dict[str, Taken] = {}  # by execution, as a job may come back
        self.offering = True  # whether jobs may be sent here
        self.unheard = False  # Redis may have started jobs for this worker that never arrived
        self.open = True  # False for good once the worker leaves
        self._rang = self._left_some = False  # reasons to read the queues before the next regular read
        self._look_at = 0.0

    def hear_submission(self, message: Any) -> None:
        """Notes that a job was queued."""
        self._rang = True

    def hear_jobs(self, message: Any) -> None:
        """Accepts jobs that a submission started for this worker; jobs that it can no longer run go back to their queue."""
        if self.open and not self._quarantine.closed(self.running):
            self._accept(read_jobs(message["data"]))
        else:
            self.miss_messages()

    def miss_messages(self) -> None:
        """Notes that messages with jobs may be lost, for example after a reconnect."""
        self.unheard = True

    def stop(self, payload: dict[str, Any]) -> None:
        """Obeys RQ's command to end a job, or one execution of it."""
        for job in self.running.values():
            if job.id == payload["job_id"] and payload.get("execution_id", job.execution_id) == job.execution_id:
                self.end(job, Problem(reason="canceled", detail="canceled on request"))

    def should_look(self) -> bool:
        """Whether a read of the queues may find a job."""
        return self._rang or self._left_some or time.monotonic() >= self._look_at

    def take(self) -> Sequence[Taken] | None:
        """Starts the jobs that fit. None while the engine has not admitted earlier jobs, or while a job runs alone."""
        room = self._engine.room
        if room is None or self._quarantine.closed(self.running):
            return None
        self._rang, self._look_at = False, time.monotonic() + LOOK_EVERY_S
        taken = self._quarantine.take(room, idle=not self.running, offering=self.offering)
        self._left_some = self._quarantine.waiting > 0 or self._leases.may_have_left_some(taken, room)
        self._accept(taken)
        return taken

    def room_beside(self, ended: Sequence[Ended]) -> Room | None:
        """The room to offer once some jobs have ended; None where no job may be sent here, or the room is unknown."""
        over = {one.taken.execution_id for one in ended}
        left = {label: job for label, job in self.running.items() if label not in over}
        shut = not self.offering or self._quarantine.waiting > 0 or self._quarantine.closed(left)
        return None if shut else self._engine.room_to_come

    def look_again(self) -> None:
        """Makes the worker read the queues on its next turn."""
        self._left_some = True

    def forget(self, jobs: Sequence[Taken]) -> None:
        """Drops jobs that ended or that another worker has."""
        for job in jobs:
            self.running.pop(job.execution_id, None)

    def end(self, job: Taken, problem: Problem) -> None:
        """Ends a job at the next tick."""
        self._engine.order_end(job.execution_id, problem)

    def offer(self, offering: bool) -> None:
        """Says whether jobs may be sent here."""
        self.offering = offering
        if not offering:
            self._leases.withdraw()

    def close(self) -> None:
        """Takes no more jobs; jobs that were sent and did not arrive go back to their queue."""
        self.offer(False)
        self.open, self.unheard = False, True

    def return_unheard(self) -> None:
        """Requeues the jobs that Redis started for this worker and that never arrived, without using their retry."""
        self.unheard = False
        unheard = self._leases.return_undelivered(self.running.values(), on_its_way_s=ON_ITS_WAY_S if self.open else 0.0)
        self.unheard |= unheard.on_their_way > 0

    def _accept(self, taken: Sequence[Taken]) -> None:
        self.running |= {job.execution_id: job for job in taken}
        sound = [(job, job.request) for job in taken if job.request and not job.refused]
        self._engine.admit(Admit(label=job.execution_id, job=request, expires_at=job.expires_at) for job, request in sound)
        for job in taken:
            if job.refused:
                self._refuse(job, job.refused)
