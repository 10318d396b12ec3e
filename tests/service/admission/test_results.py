"""What is kept of jobs is bounded for each caller and in all; the bound holds while jobs wait, and frees itself when results expire."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from rq import Queue

from models.checkpoints import Store
from service.admission.results import ResultLimits
from workers.capacity import Room
from workers.generation.encoding import encode
from workers.jobs import RECORD_BYTES, ClassData, Contract, Diagnostics, GenerateResult, Timings
from workers.leases.leases import Ended, Leases
from workers.queue import keys
from workers.queue.broker import Broker, BrokerLimits
from workers.queue.submissions import KeptLimits

ASYNC = {"Prefer": "respond-async"}
ONE = RECORD_BYTES + 28 * 28 + 3000 + 400  # what one image by `prior` leaves at most


def ask(api: httpx.Client, images: int = 1, caller: str = "ann") -> httpx.Response:
    body = {"model": "toy", "sampler": "prior", "num_images": images}
    return api.post("/generate", json=body, headers=ASYNC | {"X-Ebbtide-Caller": caller})


def sums(redis) -> dict[str, int]:
    return {caller.decode(): int(kept) for caller, kept in redis.hgetall(keys.KEPT_BY).items()}


def test_a_caller_may_keep_so_many_bytes_and_all_callers_so_many(serve, settings, painter, redis):
    painter.rest()
    api = serve(settings.model_copy(update={"max_caller_result_bytes": 3 * ONE, "max_result_bytes": 5 * ONE}))
    assert [ask(api).status_code for _ in range(4)] == [202, 202, 202, 429]
    refused = ask(api)
    assert refused.json()["type"] == "urn:ebbtide:results-full"
    assert f"limit of {3 * ONE}" in refused.json()["detail"]
    assert 1 <= int(refused.headers["retry-after"]) <= 3600
    assert [ask(api, caller="bob").status_code for _ in range(3)] == [202, 202, 429]
    assert f"all callers keep {5 * ONE} bytes" in ask(api, caller="cid").json()["detail"]
    assert sums(redis) == {" all": 5 * ONE, "ann": 3 * ONE, "bob": 2 * ONE}
    assert redis.llen("rq:queue:generate") == 5
    assert 'ebbtide_rejected_total{reason="results-full"}' in api.get("/metrics").text


def test_the_bound_holds_for_many_requests_at_once_at_two_apis(serve, settings, painter, redis):
    painter.rest()
    bounded = settings.model_copy(update={"max_caller_result_bytes": 7 * ONE})
    apis = [serve(bounded), serve(bounded)]
    with ThreadPoolExecutor(16) as callers:
        codes = list(callers.map(lambda number: ask(apis[number % 2]).status_code, range(60)))
    assert (codes.count(202), codes.count(429)) == (7, 53)


def test_a_canceled_job_leaves_its_record_alone(serve, settings, painter, redis, broker):
    painter.rest()
    api = serve(settings)
    job_id = ask(api, 4).headers["x-ebbtide-job"]
    assert sums(redis)["ann"] > 4 * 3000
    broker.cancel(job_id)
    assert sums(redis) == {" all": RECORD_BYTES, "ann": RECORD_BYTES}


def test_what_a_job_has_left_replaces_what_was_expected_and_goes_when_it_expires(serve, settings, painter, redis, eventually):
    painter.rest()
    api = serve(settings.model_copy(update={"result_ttl_s": 1, "max_caller_result_bytes": 2 * ONE}))
    short = Broker(redis, BrokerLimits(result_ttl_s=1))
    leases, queue = Leases(short, "w", "rq:worker:w", 90), Queue("generate", connection=redis, serializer="json")
    assert ask(api).status_code == 202
    [job] = leases.take([queue], Room(8, frozenset()))
    timings, said = Timings(queue_s=0, sampling_s=0, encoding_s=0), Diagnostics(exact=None, effective_temperature=1)
    result = GenerateResult(artifacts=("0.png",), diagnostics=said, chains=(), timings=timings, worker="w", device="cpu")
    leases.end([Ended(job, result, {"0.png": bytes(100_000)})])
    assert sums(redis)["ann"] > 100_000
    assert ask(api).status_code == 429
    eventually(lambda: ask(api).status_code == 202)
    assert sums(redis) == {" all": ONE, "ann": ONE}


@pytest.mark.parametrize("layout", ["grid", "images"])
@pytest.mark.parametrize("sampler", ["prior", "ddls"])
def test_a_job_leaves_no_more_than_is_expected(settings, store: Store, generate_job, layout, sampler):
    np = pytest.importorskip("numpy")
    noise = np.random.default_rng(0).integers(0, 256, (16, 28, 28, 1), np.uint8)  # no picture takes more bytes
    given = {"mcmc": None} if sampler == "prior" else {}
    job = generate_job(num_images=16, layout=layout, sampler=sampler, data=ClassData.drawn(1, 16, 10), **given)
    reasons = dict.fromkeys(("r_hat", "ess_bulk", "ess_tail"), "a reason of some length, as there are for every field that is null")
    said = Diagnostics(exact=True, effective_temperature=1, reasons=reasons, warnings=("w" * 200,))
    contract = Contract(device="NVIDIA H100 80GB HBM3", instructions=None, torch="2.13.0", sampling_reference=64, decoding_reference=64)
    left = sum(map(len, encode(job, noise, said, contract).values()))
    expected = ResultLimits(settings, store).expected(job)
    assert left < expected < 3 * left


def test_limits_are_those_of_the_settings(settings, store):
    bounded = settings.model_copy(update={"max_result_bytes": 7, "max_caller_result_bytes": 5})
    assert ResultLimits(bounded, store).kept == KeptLimits(all=7, caller=5)
