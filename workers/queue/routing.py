"""Which queue a job waits in, what runs it, and what it costs."""

from workers.jobs import AnyJob

GENERATE_QUEUES = ("generate-high", "generate", "generate-low")  # highest priority first, see scripts/turns.lua
AGEING_S = 30.0  # how much younger than it is a job counts for each priority below the highest
ALONE_QUEUE = "generate-alone"  # of any priority: jobs that run with no other beside them (quarantine.py says which)
TRAIN_QUEUE = "train"
QUEUES = (*GENERATE_QUEUES, ALONE_QUEUE, TRAIN_QUEUE)
FUNCTIONS = {"generate": "workers.generation.generate", "train": "workers.training.job.train_job"}


def queue_of(job: AnyJob) -> str:
    """The queue a job waits in."""
    if job.kind == "train":
        return TRAIN_QUEUE
    return queue_for(job.priority)


def queue_for(priority: str) -> str:
    """The queue of generation jobs of a priority."""
    return "generate" if priority == "normal" else f"generate-{priority}"


def describe(job: AnyJob) -> str:
    """A line for RQ's logs and dashboards."""
    if job.kind == "train":
        return f"train {job.name} ({job.family} on {job.dataset}, {job.steps} steps)"
    return f"{job.num_images} x {job.model} v{job.version} by {job.sampler}, seed {job.seed}"


def served_before(queue: str) -> tuple[str, ...]:
    """The queues a worker empties before it takes from this one."""
    return GENERATE_QUEUES[: GENERATE_QUEUES.index(queue)] if queue in GENERATE_QUEUES else ()
