"""What a worker says of its load with each sign of life, so that others can tell how long a job will take."""

from collections.abc import Mapping

from workers.jobs import GenerateJob, Progress
from workers.queues import chain_steps


def load(running: Mapping[str, GenerateJob], progress: Mapping[str, Progress], capacity: int) -> dict[str, int]:
    """Chains that step, the chain-steps that all jobs here still need, and those of them whose chains wait; all by execution.

    Where chains wait, those that step are taken to be half done on the average.
    """
    chains = sum(job.num_images for job in running.values() if job.mcmc)
    left = sum(_left(job, progress.get(label)) for label, job in running.items() if job.mcmc)
    asked = sum(chain_steps(job) for job in running.values() if job.mcmc)
    waiting = max(0, left - capacity * asked // (2 * chains)) if chains > capacity else 0
    return {"chains_stepping": min(chains, capacity), "chain_steps_left": left, "chain_steps_waiting": waiting}


def _left(job: GenerateJob, progress: Progress | None) -> int:
    return progress.total - progress.done if progress else chain_steps(job)
