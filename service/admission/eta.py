"""How long until a job ends: what is before it and its own chains, at the pace the workers have lately.

A step of a batch takes what the worker measured for its size when it loaded the checkpoint, times how much slower its steps are lately:
the table was made on a quiet machine. Where nobody has run the job's model yet, the pace of whatever else runs has to do.
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
    """Seconds; None where nothing is known to tell from."""
    if view.status is Status.QUEUED:
        return _queued_s(view, state)
    return _running_s(view, state) if view.status is Status.RUNNING else None


def _queued_s(view: JobView, state: QueueState | None) -> float | None:
    """The chain-steps that wait before it, then until the first running job makes room, then its own."""
    if state is None or not isinstance(view.job, GenerateJob) or view.queue_position is None or (speed := _pace(view.job, state)) <= 0:
        return None
    ahead = _ahead(view.job, view.queue_position, state) + sum(worker.chain_steps_waiting for worker in state.workers)
    return ahead / speed + _until_room_s(view.job, state, crowded=ahead > 0) + _own_s(view.job, state)


def _ahead(job: GenerateJob, position: int, state: QueueState) -> float:
    """Chain-steps in the queues before it: its share of its own queue, and all that is served first."""
    waiting = {queue.name: queue for queue in state.queues}
    own, before = waiting[job.queue], [waiting[name] for name in served_before(job.queue)]
    place = max(0, position - sum(queue.depth for queue in before))
    return sum(queue.backlog_chain_steps for queue in before) + own.backlog_chain_steps * place / max(1, own.depth)


def _until_room_s(job: GenerateJob, state: QueueState, *, crowded: bool) -> float:
    """Nothing where its chains find room. Else jobs leave one after the other, evenly spread over what those that run still need."""
    generating = [worker for worker in state.workers if worker.capacity]
    free = sum((worker.capacity or 0) - worker.chains_stepping for worker in generating)
    if not crowded and free >= min(job.num_images, sum(worker.capacity or 0 for worker in generating)):
        return 0.0
    running = sum(worker.chain_steps_left - worker.chain_steps_waiting for worker in generating)
    return running / _pace(job, state) / max(1, sum(worker.jobs for worker in generating))


def _waiting_inside(job: GenerateJob, state: QueueState) -> float:
    """Chain-steps that step before its last chain does, of those that wait in workers: jobs start a chain each in turn."""
    jobs = sum(worker.jobs for worker in state.workers)
    chains_a_job = sum(lane.points for worker in state.workers for lane in worker.lanes) / max(1, jobs)
    return sum(worker.chain_steps_waiting for worker in state.workers) * min(1.0, job.points / max(1.0, chains_a_job))


def _own_s(job: GenerateJob, state: QueueState, worker: str | None = None) -> float:
    """Its chains step together; more than fit step one after the other."""
    return _steps_s(job.cost, job, _tick_s(job, state, worker), state)


def _steps_s(left: int, job: GenerateJob, tick_s: float, state: QueueState) -> float:
    most = max((worker.capacity or 1 for worker in state.workers), default=1)  # one worker runs all of a job
    return left / job.num_images * max(1.0, job.points / most) * tick_s


def _tick_s(job: GenerateJob, state: QueueState, worker: str | None = None, *, inside: bool = False) -> float:
    """Seconds of a step of a batch as full as it is with this job, on that worker or else on the one that is fastest now."""
    asked = [seen for seen in state.workers if worker in (None, seen.name)]
    if known := [seconds for seen in asked if (seconds := _tabled_s(job, seen, inside=inside)) is not None]:
        return min(known)
    beside = sum(seen.chains_stepping for seen in state.workers)
    return max(1, min(_capacity(state), beside + job.num_images)) / _pace(job, state)


def _tabled_s(job: GenerateJob, worker: WorkerView, *, inside: bool) -> float | None:
    """The same from a worker's tables, over all its lanes, which take turns; None where it never ran the job's model.

    `inside`: the job's chains are among those the worker tells of. More than fit wait.
    """
    own = _lane(job, worker)
    if own is None:
        return None
    joining = 0 if inside else job.points
    asked = [(lane.points + joining if lane is own else lane.points, lane.step_seconds) for lane in worker.lanes]
    share = min(1.0, (worker.capacity or 1) / max(1, sum(rows for rows, _ in asked)))
    return (worker.slowdown or 1.0) * sum(_step_s(math.ceil(share * rows), table) for rows, table in asked)


def _step_s(rows: int, table: dict[int, float]) -> float:
    return sum(table[bucket] for _, bucket in buckets_for(rows, tuple(table)))


def _lane(job: GenerateJob, worker: WorkerView) -> LaneLoad | None:
    return next((lane for lane in worker.lanes if (lane.model, lane.sampler) == (job.model, job.sampler)), None)


def _pace(job: GenerateJob, state: QueueState) -> float:
    """Chain-steps a second of all workers lately; where none has made any, what full batches of the job's model would make."""
    full = [(worker.capacity or 1, lane.step_seconds) for worker in state.workers if (lane := _lane(job, worker))]
    return pace(state) or sum(rows / _step_s(rows, table) for rows, table in full)


def _told_ago_s(worker: str | None, state: QueueState) -> float:
    """How old a job's progress is: it comes with its worker's signs of life."""
    return next((seen.heartbeat_age_s + seen.progress_age_s for seen in state.workers if seen.name == worker), 0.0)


def _capacity(state: QueueState) -> int:
    return sum(worker.capacity or 0 for worker in state.workers if worker.chain_steps_per_s or worker.lanes) or 1


def _running_s(view: JobView, state: QueueState | None) -> float | None:
    """What each of its chains still needs, at the pace of the workers; where there is none, the rest at the job's own so far."""
    progress, job, ran_s = view.progress, view.job, max(0.0, time.time() - (view.started_at or time.time()))
    if isinstance(job, GenerateJob) and state is not None and _pace(job, state) > 0:
        if progress is None or not progress.done:  # its worker has not told of it yet
            return max(0.0, _waiting_inside(job, state) / _pace(job, state) + _own_s(job, state, view.worker) - ran_s)
        left_s = _steps_s(progress.total - progress.done, job, _tick_s(job, state, view.worker, inside=True), state)
        return max(0.0, left_s - _told_ago_s(view.worker, state))
    if progress is None or not progress.done or view.started_at is None:
        return None
    return ran_s * max(0, progress.total - progress.done) / progress.done
