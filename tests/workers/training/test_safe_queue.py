"""A job popped from one of several queues is in Redis until it starts, so that one whose worker dies in between is found."""

import pytest
from rq.exceptions import DequeueTimeout
from rq.job import Job

from workers.training.worker import ForkingWorker, SafeQueue


@pytest.fixture
def pop(redis):
    queues = [SafeQueue(name, connection=redis, serializer="json") for name in ("other", "train")]
    return lambda timeout=None: SafeQueue.dequeue_any(queues, timeout, connection=redis, serializer="json")


@pytest.mark.parametrize("timeout", [None, 1])
def test_a_popped_job_is_kept_until_it_starts(timeout, pop, broker, redis, train_job):
    job_id = broker.submit(train_job)
    job, queue = pop(timeout)
    assert (job.id, queue.name) == (job_id, "train")
    assert redis.llen("rq:queue:train") == 0
    assert redis.lrange(queue.intermediate_queue.key, 0, -1) == [job_id.encode()]


def test_a_job_that_starts_leaves_the_list_of_popped_ones(pop, broker, redis, settings, train_job):
    job_id = broker.submit(train_job)
    _, queue = pop()
    worker = ForkingWorker(broker, settings)
    job = Job.fetch(job_id, connection=redis, serializer="json")
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)
    assert not redis.exists(queue.intermediate_queue.key)
    assert [event.name for event in broker.events(job_id)] == ["queued", "started"]


def test_empty_queues_are_waited_for_and_then_left(pop):
    assert pop() is None
    with pytest.raises(DequeueTimeout):
        pop(1)
