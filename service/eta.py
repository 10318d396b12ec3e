"""How long until a job ends: what is before it and its own chains, at the pace the workers have lately."""

import time

from service.limits import pace
from service.metrics import QueueState
from workers.jobs import GenerateJob, JobView, Status
from workers.queues import chain_steps, queue_of, served_before
from workers.stepping import PROGRESS_EVERY_S


def eta_s(view: JobView, state: QueueState | None) -> float | None:
    """Seconds; None where nothing is known to tell from."""
    if view.status is Status.QUEUED:
        return _queued_s(view, state)
    return _running_s(view, state) if view.status is Status.RUNNING else None


def _queued_s(view: JobView, state: QueueState | None) -> float | None:
    """The chain-steps that wait before it, then until the first running job makes room, then its own."""
    if state is None or pace(state) <= 0 or not isinstance(view.job, GenerateJob) or view.queue_position is None:
        return None
    ahead = _ahead(view.job, view.queue_position, state) + sum(worker.chain_steps_waiting for worker in state.workers)
    return ahead / pace(state) + _until_room_s(view.job, state, crowded=ahead > 0) + _own_s(view.job, state)


def _ahead(job: GenerateJob, position: int, state: QueueState) -> float:
    """Chain-steps in the queues before it: its share of its own queue, and all that is served first."""
    waiting = {queue.name: queue for queue in state.queues}
    own, before = waiting[queue_of(job)], [waiting[name] for name in served_before(queue_of(job))]
    place = max(0, position - sum(queue.depth for queue in before))
    return sum(queue.backlog_chain_steps for queue in before) + own.backlog_chain_steps * place / max(1, own.depth)


def _until_room_s(job: GenerateJob, state: QueueState, *, crowded: bool) -> float:
    """Nothing where its chains find room. Else jobs leave one after the other, evenly spread over what those that run still need."""
    generating = [worker for worker in state.workers if worker.capacity]
    free = sum((worker.capacity or 0) - worker.chains_stepping for worker in generating)
    if not crowded and free >= min(job.num_images, sum(worker.capacity or 0 for worker in generating)):
        return 0.0
    running = sum(worker.chain_steps_left - worker.chain_steps_waiting for worker in generating)
    return running / pace(state) / max(1, sum(worker.jobs for worker in generating))


def _own_s(job: GenerateJob, state: QueueState) -> float:
    """Its chains step together; more than fit step one after the other."""
    return chain_steps(job) / job.num_images * max(1.0, job.num_images / _capacity(state)) * _tick_s(job, state)


def _tick_s(job: GenerateJob, state: QueueState) -> float:
    """Seconds of a step of a batch as full as it is with this job."""
    beside = sum(worker.chains_stepping for worker in state.workers)
    return max(1, min(_capacity(state), beside + job.num_images)) / pace(state)


def _told_ago_s(worker: str | None, state: QueueState) -> float:
    """How old a job's progress is: it comes with its worker's signs of life."""
    return next((seen.heartbeat_age_s for seen in state.workers if seen.name == worker), 0.0) + PROGRESS_EVERY_S / 2


def _capacity(state: QueueState) -> int:
    return sum(worker.capacity or 0 for worker in state.workers if worker.chain_steps_per_s) or 1


def _running_s(view: JobView, state: QueueState | None) -> float | None:
    """What each of its chains still needs, at the pace of the workers; where there is none, the rest at the job's own so far."""
    progress, job = view.progress, view.job
    if isinstance(job, GenerateJob) and state is not None and pace(state) > 0:
        left = progress.total - progress.done if progress else chain_steps(job)
        if progress is None or not progress.done:
            return sum(worker.chain_steps_waiting for worker in state.workers) / pace(state) + _own_s(job, state)
        rest_s = left / job.num_images * max(1.0, job.num_images / _capacity(state)) * _tick_s(job, state)
        return max(0.0, rest_s - _told_ago_s(view.worker, state))
    if progress is None or not progress.done or view.started_at is None:
        return None
    return max(0.0, time.time() - view.started_at) * max(0, progress.total - progress.done) / progress.done
