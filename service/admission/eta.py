"""Estimates the seconds until a job ends: the chain-steps ahead of it and its own, at the workers' recent pace.

Each worker measures the seconds of a step for every batch size when it loads a checkpoint. The estimate multiplies that table by the
worker's recent slowdown, since the table was measured on an idle machine. For a model that no worker has loaded, it uses the recent pace
of all other jobs.
"""

import math
import time

from service.admission.backlog import pace
from service.protocol.metrics import QueueState
from workers.capacity import buckets_for
from workers.jobs import GenerateJob, JobView, Status
from workers.queue.routing import served_before
from workers.queue.views import WorkerView
from workers.queue.worker_load import LaneLoad


def eta_s(view: JobView, state: QueueState | None) -> float | None:
    """Seconds until the job ends; None where no pace is known."""
    if view.status is Status.QUEUED:
        return _queued_s(view, state)
    return _running_s(view, state) if view.status is Status.RUNNING else None


def _queued_s(view: JobView, state: QueueState | None) -> float | None:
    """Seconds for the chain-steps ahead of the job, for a running job to make room, and for the job's own steps."""
    if state is None or not isinstance(view.job, GenerateJob) or view.queue_position is None or (speed := _pace(view.job, state)) <= 0:
        return None
    ahead = _ahead(view.job, view.queue_position, state) + sum(worker.chain_steps_waiting for worker in state.workers)
    return ahead / speed + _until_room_s(view.job, state, crowded=ahead > 0) + _own_s(view.job, state)


def _ahead(job: GenerateJob, position: int, state: QueueState) -> float:
    """Chain-steps ahead of it: its share of its own queue and all of the queues served first."""
    waiting = {queue.name: queue for queue in state.queues}
    own, before = waiting[job.queue], [waiting[name] for name in served_before(job.queue)]
    place = max(0, position - sum(queue.depth for queue in before))
    return sum(queue.backlog_chain_steps for queue in before) + own.backlog_chain_steps * place / max(1, own.depth)


def _until_room_s(job: GenerateJob, state: QueueState, *, crowded: bool) -> float:
    """Seconds until its chains find room: 0 where there is room now, else the average time between two ends of running jobs."""
    generating = [worker for worker in state.workers if worker.capacity]
    free = sum((worker.capacity or 0) - worker.chains_stepping for worker in generating)
    if not crowded and free >= min(job.num_images, sum(worker.capacity or 0 for worker in generating)):
        return 0.0
    running = sum(worker.chain_steps_left - worker.chain_steps_waiting for worker in generating)
    return running / _pace(job, state) / max(1, sum(worker.jobs for worker in generating))


def _waiting_inside(job: GenerateJob, state: QueueState) -> float:
    """Chain-steps waiting inside workers that run before its last chain; jobs there start one chain each in turn."""
    jobs = sum(worker.jobs for worker in state.workers)
    chains_a_job = sum(lane.points for worker in state.workers for lane in worker.lanes) / max(1, jobs)
    return sum(worker.chain_steps_waiting for worker in state.workers) * min(1.0, job.points / max(1.0, chains_a_job))


def _own_s(job: GenerateJob, state: QueueState, worker: str | None = None) -> float:
    """Seconds of its own steps. Its chains step together as far as the capacity goes."""
    return _steps_s(job.cost, job, _tick_s(job, state, worker), state)


def _steps_s(left: int, job: GenerateJob, tick_s: float, state: QueueState) -> float:
    most = max((worker.capacity or 1 for worker in state.workers), default=1)  # one worker runs all of a job
    return left / job.num_images * max(1.0, job.points / most) * tick_s


def _tick_s(job: GenerateJob, state: QueueState, worker: str | None = None, *, inside: bool = False) -> float:
    """Seconds of a step with this job in the batch, on the given worker or else on the fastest one."""
    candidates = [seen for seen in state.workers if worker in (None, seen.name)]
    if known := [seconds for seen in candidates if (seconds := _tabled_s(job, seen, inside=inside)) is not None]:
        return min(known)
    beside = sum(seen.chains_stepping for seen in state.workers)
    return max(1, min(_capacity(state), beside + job.num_images)) / _pace(job, state)


def _tabled_s(job: GenerateJob, worker: WorkerView, *, inside: bool) -> float | None:
    """Seconds of a step by the worker's tables, summed over its lanes, which take turns; None where it has no table of the job's model.

    `inside`: the worker's figures already include the job's chains.
    """
    own = _lane(job, worker)
    if own is None:
        return None
    joining = 0 if inside else job.points
    lanes = [(lane.points + joining if lane is own else lane.points, lane.step_seconds) for lane in worker.lanes]
    share = min(1.0, (worker.capacity or 1) / max(1, sum(rows for rows, _ in lanes)))  # the other chains wait
    return (worker.slowdown or 1.0) * sum(_step_s(math.ceil(share * rows), table) for rows, table in lanes)


def _step_s(rows: int, table: dict[int, float]) -> float:
    return sum(table[bucket] for _, bucket in buckets_for(rows, tuple(table)))


def _lane(job: GenerateJob, worker: WorkerView) -> LaneLoad | None:
    return next((lane for lane in worker.lanes if (lane.model, lane.sampler) == (job.model, job.sampler)), None)


def _pace(job: GenerateJob, state: QueueState) -> float:
    """Recent chain-steps a second of all workers; where there are none, those of full batches by the tables of the job's model."""
    full = [(worker.capacity or 1, lane.step_seconds) for worker in state.workers if (lane := _lane(job, worker))]
    return pace(state) or sum(rows / _step_s(rows, table) for rows, table in full)


def _report_age_s(worker: str | None, state: QueueState) -> float:
    """Seconds since the worker last reported the progress of its jobs, which it does with its heartbeats."""
    return next((seen.heartbeat_age_s + seen.progress_age_s for seen in state.workers if seen.name == worker), 0.0)


def _capacity(state: QueueState) -> int:
    return sum(worker.capacity or 0 for worker in state.workers if worker.chain_steps_per_s or worker.lanes) or 1


def _running_s(view: JobView, state: QueueState | None) -> float | None:
    """The time of the steps its chains still need, at the workers' pace, or at the job's own where no pace is known."""
    progress, job, ran_s = view.progress, view.job, max(0.0, time.time() - (view.started_at or time.time()))
    if isinstance(job, GenerateJob) and state is not None and _pace(job, state) > 0:
        if progress is None or not progress.done:  # not reported yet
            return max(0.0, _waiting_inside(job, state) / _pace(job, state) + _own_s(job, state, view.worker) - ran_s)
        left_s = _steps_s(progress.total - progress.done, job, _tick_s(job, state, view.worker, inside=True), state)
        return max(0.0, left_s - _report_age_s(view.worker, state))
    if progress is None or not progress.done or view.started_at is None:
        return None
    return ran_s * max(0, progress.total - progress.done) / progress.done
