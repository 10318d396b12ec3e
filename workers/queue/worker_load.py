"""The load that a worker reports with each heartbeat; the API estimates from it how long a job will take."""

from collections import Counter
from collections.abc import Mapping

from pydantic import TypeAdapter

from models.cards import Frozen
from workers.jobs import GenerateJob, Progress

Tables = Mapping[tuple[str, str], Mapping[int, float]]  # (model, sampler): seconds of a step by batch size, measured when it was loaded


class LaneLoad(Frozen):
    """Chains that share their evaluations, and the seconds those take."""

    model: str
    sampler: str
    points: int  # that all its chains may ask for in a tick, including waiting chains
    step_seconds: dict[int, float]  # by batch size


LANES: TypeAdapter[tuple[LaneLoad, ...]] = TypeAdapter(tuple[LaneLoad, ...])


def load(running: Mapping[str, GenerateJob], progress: Mapping[str, Progress], capacity: int, tables: Tables) -> dict[str, int | bytes]:
    """The worker's load: chains that step, chain-steps all jobs still need, the part of them that waits, and every lane so far.

    `running` and `progress` are by execution. Where chains wait, every running chain counts as half done.
    """
    chains = sum(job.num_images for job in running.values() if job.mcmc)
    left = sum(_left(job, progress.get(label)) for label, job in running.items() if job.mcmc)
    asked = sum(job.cost for job in running.values() if job.mcmc)
    waiting = max(0, left - capacity * asked // (2 * chains)) if chains > capacity else 0
    stepping = {"capacity": capacity, "chains_stepping": min(chains, capacity), "chain_steps_left": left, "chain_steps_waiting": waiting}
    return {**stepping, "lanes": LANES.dump_json(_lanes(running, tables))}


def _lanes(running: Mapping[str, GenerateJob], tables: Tables) -> tuple[LaneLoad, ...]:
    asked = Counter[tuple[str, str]]()
    for job in running.values():
        asked[job.model, job.sampler] += job.points
    return tuple(
        LaneLoad(model=model, sampler=sampler, points=asked[model, sampler], step_seconds=dict(table))
        for (model, sampler), table in tables.items()
    )


def _left(job: GenerateJob, progress: Progress | None) -> int:
    return progress.total - progress.done if progress else job.cost
