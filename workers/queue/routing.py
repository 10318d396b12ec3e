"""Every queue, as the kinds of jobs name them."""

from workers.jobs import KINDS
from workers.jobs.generate import GENERATE_QUEUES

AGEING_S = 30.0  # a job counts as this much younger for each priority below the highest
KIND_OF_QUEUE = {queue: kind for kind in KINDS.values() for queue in kind.queues}
QUEUES = tuple(KIND_OF_QUEUE)
FORKED_QUEUES = tuple(queue for queue, kind in KIND_OF_QUEUE.items() if kind.handler)  # each job runs in a process of its own


def served_before(queue: str) -> tuple[str, ...]:
    """The queues a worker empties before it takes from this one."""
    return GENERATE_QUEUES[: GENERATE_QUEUES.index(queue)] if queue in GENERATE_QUEUES else ()
