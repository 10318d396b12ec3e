"""Callers are distinguished; the backlog is bounded, and a refusal says when to try again."""

import asyncio
import time

import httpx
import pytest

from service.admission.backlog import Backlog
from service.protocol.errors import Refusal
from service.protocol.metrics import QueueState
from workers.jobs import Status
from workers.queue.views import QueueView, WorkerView

ASYNC = {"Prefer": "respond-async"}


def ask(api: httpx.Client, images: int, **headers: str) -> httpx.Response:
    return api.post("/generate", json={"model": "toy", "num_images": images}, headers=ASYNC | headers)


@pytest.mark.parametrize(
    ("header", "caller"),
    [
        (None, "127.0.0.1"),
        ("ann", "ann"),
        ("team-3:ann@example.org", "team-3:ann@example.org"),
        ("no spaces", "127.0.0.1"),
        ("x" * 65, "127.0.0.1"),
        ("", "127.0.0.1"),
    ],
)
def test_a_caller_is_its_header_or_its_address(api, broker, header, caller):
    answer = ask(api, 1, **({} if header is None else {"X-Ebbtide-Caller": header}))
    assert broker.view(answer.headers["x-ebbtide-job"]).job.caller == caller


def test_answers_do_not_show_the_caller(api):
    answer = ask(api, 1, **{"X-Ebbtide-Caller": "ann"})
    views = [answer.json(), api.get(answer.headers["location"]).json(), api.get("/jobs").json()["jobs"][0]]
    assert [view["job"]["caller"] for view in views] == [""] * 3


def test_a_full_backlog_refuses_with_retry_after(serve, settings, painter, redis, broker, eventually):
    painter.rest()
    redis.hset("rq:worker:painter", "chain_steps_per_s", "10")
    api = serve(settings.model_copy(update={"max_backlog_chain_steps": 200}))
    assert ask(api, 4).status_code == 202  # 160 chain-steps
    refused = ask(api, 2)
    assert refused.status_code == 429
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:ebbtide:too-busy"
    assert refused.headers["retry-after"] == "4"  # 160 + 80 is 40 too many, at 10 a second
    assert ask(api, 1).status_code == 202
    assert len(broker.recent()) == 2
    painter.working.set()
    eventually(lambda: ask(api, 2).status_code == 202)
    assert 'ebbtide_rejected_total{reason="too-busy"}' in api.get("/metrics").text


def test_jobs_of_other_api_processes_count(serve, settings, painter, eventually):
    painter.rest()
    small = settings.model_copy(update={"max_backlog_chain_steps": 200})
    one, other = serve(small), serve(small)
    assert ask(one, 4).status_code == 202
    eventually(lambda: ask(other, 2).status_code == 429)
    assert ask(other, 2).headers["retry-after"] == "30"  # nothing measured yet


def test_an_empty_backlog_admits_a_job_of_any_size(serve, settings, painter):
    painter.rest()
    api = serve(settings.model_copy(update={"max_backlog_chain_steps": 1}))
    assert ask(api, 4).status_code == 202
    assert ask(api, 1).status_code == 429


def test_a_thousand_concurrent_submissions_are_bounded(generate_job):
    queue = QueueView(name="generate", depth=1, oldest_age_s=0, backlog_chain_steps=100)
    worker = WorkerView(name="w", kind="generate", state="busy", jobs=1, heartbeat_age_s=0, chain_steps_per_s=50)

    async def look():
        return QueueState((queue,), (worker,))

    async def let_in():
        backlog, answered, refusals = Backlog(look, 1000), asyncio.Event(), []

        async def redis():
            await answered.wait()
            return 0

        async def ask():
            try:
                await backlog.admit(generate_job(num_images=2), redis)  # 10 chain-steps
            except Refusal as refusal:
                refusals.append(refusal)

        asking = [asyncio.create_task(ask()) for _ in range(1000)]
        while len(refusals) < 910:
            await asyncio.sleep(0)
        answered.set()
        await asyncio.gather(*asking)
        await backlog.admit(generate_job(num_images=2), redis)  # nothing waits any more
        return refusals

    refusals = asyncio.run(let_in())
    assert len(refusals) == 910
    assert refusals[-1].headers == {"Retry-After": "1"}


def test_a_waiting_request_is_answered_when_its_deadline_passes(api, painter, broker):
    painter.rest()
    begun = time.monotonic()
    answer = api.post("/generate", json={"model": "toy", "deadline_s": 0.2})
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:ebbtide:expired")
    assert "before a worker was free" in answer.json()["detail"]
    assert time.monotonic() - begun < 1.0
    assert broker.recent()[0].status is Status.EXPIRED
