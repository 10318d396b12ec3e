"""The step that ends jobs, with their files: all of a job's or none, and its picture straight to the one who waits for it."""

import asyncio

import pytest
from rq import Queue

from service.command.valkey import valkey_command
from workers.capacity import Room
from workers.jobs import Diagnostics, GenerateResult, Problem, Status, Timings
from workers.leases.leases import SENT_AT_MOST, Ended, Leases, Taken
from workers.leases.recovery import reclaim
from workers.queue import keys
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Completions
from workers.queue.submissions import Answer, AsyncSubmissions, Submission

BINARY = bytes(range(256)) * 3


@pytest.fixture
def leases(broker):
    return Leases(broker, "w", "rq:worker:w", 90)


def taken(leases, redis) -> list[Taken]:
    return leases.take([Queue("generate", connection=redis, serializer="json")], Room(99, frozenset()))


def ended(job: Taken, **files: bytes) -> Ended:
    named = {f"{name}.png": content for name, content in files.items()}
    timings = Timings(queue_s=0, sampling_s=0, encoding_s=0)
    told = Diagnostics(exact=True, effective_temperature=1)
    return Ended(job, GenerateResult(artifacts=tuple(named), diagnostics=told, chains=(), timings=timings, worker="w", device="cpu"), named)


def test_files_are_kept_bit_by_bit_as_long_as_their_job(leases, broker, redis, generate_job):
    broker.submit_many([generate_job(), generate_job()])
    first, second = taken(leases, redis)
    endings = [ended(first, a=BINARY, b=b""), ended(second, a=b"other")]
    assert leases.end(endings) == endings
    store = Artifacts.open("", redis)
    assert [store.get(first.id, "a.png"), store.get(first.id, "b.png"), store.get(second.id, "a.png")] == [BINARY, b"", b"other"]
    assert redis.ttl(keys.artifact(first.id, "a.png")) == redis.ttl(f"rq:job:{first.id}") > 0


def test_a_job_whose_files_have_no_room_ends_with_that_reason_and_without_files(leases, broker, redis, generate_job):
    broker.submit_many([generate_job() for _ in range(3)])
    full, failed, late = taken(leases, redis)
    problem = Ended(failed, Problem(reason="diverged", detail="so"))
    redis.config_set("maxmemory", 1)
    try:
        told = leases.end([ended(full, a=BINARY, b=BINARY), problem, ended(late, a=BINARY)])
    finally:
        redis.config_set("maxmemory", 0)
    reasons = {full.id: "unavailable", failed.id: "diverged", late.id: "unavailable"}
    assert {one.taken.id: one.outcome.reason for one in told} == reasons
    view = broker.view(full.id)
    assert (view.status, view.problem.reason) == (Status.FAILED, "unavailable")
    assert "takes no images" in view.problem.detail
    assert list(redis.scan_iter(keys.artifact("*", "*"))) == []


def test_files_of_a_job_that_somebody_else_has_by_now_are_not_kept(leases, broker, redis, generate_job):
    broker.submit(generate_job())
    (lost,) = taken(leases, redis)
    redis.zadd("rq:wip:generate", {f"{lost.id}:{lost.execution_id}": 1})
    assert reclaim(redis, [Queue("generate", connection=redis)]).requeued == [lost.id]
    assert leases.end([ended(lost, a=BINARY)]) == []
    assert [job.id for job in taken(leases, redis)] == [lost.id]
    assert leases.end([ended(lost, a=BINARY)]) == []
    assert list(redis.scan_iter(keys.artifact("*", "*"))) == []


@pytest.mark.parametrize(("content", "comes"), [(BINARY, True), (bytes(SENT_AT_MOST + 1), False)])
def test_a_small_picture_comes_with_the_news_to_the_process_that_wants_it(content, comes, leases, broker, redis, valkey_url, generate_job):
    async def scenario() -> None:
        submit = AsyncSubmissions(redis, valkey_url, broker.limits)
        async with Completions(valkey_url) as ours, Completions(valkey_url) as others:
            with ours.expecting("one") as expected, ours.expecting("two") as second, others.expecting("one") as elsewhere:
                while redis.pubsub_numsub(keys.ENDED)[0][1] < 2:
                    await asyncio.sleep(0.01)
                jobs = [Submission(generate_job(), name, f"{ours.replies} a.png") for name in ("one", "two")]
                assert await submit(jobs) == [Answer(2 * jobs[0].job.cost)] * 2
                leases.end([ended(job, b=b"another", a=content) for job in taken(leases, redis)])
                assert await expected.within(10)
                assert await second.within(10)
                assert await elsewhere.within(10)
                assert expected.picture == second.picture == (content if comes else None)
                assert elsewhere.picture is None
        await submit.close()

    asyncio.run(scenario())


def test_a_finished_job_takes_little_of_redis_as_ebbtide_runs_it(waiting, broker, redis, generate_job, tmp_path):
    command = valkey_command(0, tmp_path)
    settings = {name: command[command.index(f"--{name}") + 1] for name in ("stream-node-max-bytes", "hash-max-listpack-value")}
    before = {name: redis.config_get(name)[name] for name in settings}
    w = waiting()

    def kept_bytes():
        w.offer()
        broker.submit(generate_job())
        (job,) = w.heard()
        w.leases.end([ended(job, **{"0": BINARY})])
        return sum(redis.memory_usage(key) for key in redis.scan_iter(f"*{job.id}*"))

    as_redis_comes = kept_bytes()
    try:
        for name, value in settings.items():
            redis.config_set(name, value)
        assert kept_bytes() < min(4000, as_redis_comes / 2)
    finally:
        for name, value in before.items():
            redis.config_set(name, value)
