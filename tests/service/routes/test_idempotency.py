"""`Idempotency-Key`: the same request gets the same job, another one is refused."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.client import Client

ASYNC = {"Prefer": "respond-async"}
TRAIN = {"name": "fresh", "family": "sngan", "dataset": "digits", "steps": 10}


def keyed(key: str, **more: str) -> dict[str, str]:
    return {"Idempotency-Key": key, **more}


def test_the_same_request_gets_the_same_job_also_when_it_is_over(api: httpx.Client, painter) -> None:
    answers = [api.post("/generate", json={"model": "toy"}, headers=keyed("a")) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.headers["x-ebbtide-job"] for answer in answers}) == 1
    assert len({answer.headers["x-ebbtide-seed"] for answer in answers}) == 1  # though the request leaves it open
    assert len({answer.content for answer in answers}) == 1
    assert len(api.get("/jobs").json()["jobs"]) == 1
    other = api.post("/generate", json={"model": "toy"}, headers=keyed("b"))
    assert other.headers["x-ebbtide-job"] != answers[0].headers["x-ebbtide-job"]


def test_requests_that_arrive_at_once_get_one_job(api: httpx.Client, painter) -> None:
    def ask(_: int) -> httpx.Response:
        return api.post("/generate", json={"model": "toy", "num_images": 2}, headers=keyed("a"))

    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(ask, range(8)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({(answer.headers["x-ebbtide-job"], answer.headers["x-ebbtide-seed"]) for answer in answers}) == 1
    assert len(api.get("/jobs").json()["jobs"]) == 1


def test_what_is_written_otherwise_but_asks_for_the_same_is_the_same(api: httpx.Client) -> None:
    first = api.post("/generate", json={"model": "toy"}, headers=keyed("a", **ASYNC)).json()["id"]
    body = b'{"num_images": 1.0, "priority": "normal", "model": "toy"}'
    assert api.post("/generate", content=body, headers=keyed("a", **ASYNC)).json()["id"] == first


def test_another_request_with_the_key_is_refused_and_names_the_job(api: httpx.Client) -> None:
    first = api.post("/generate", json={"model": "toy"}, headers=keyed("a", **ASYNC)).json()["id"]
    answer = api.post("/generate", json={"model": "toy", "num_images": 2}, headers=keyed("a", **ASYNC))
    assert (answer.status_code, answer.json()["type"]) == (422, "urn:ebbtide:key-reused")
    assert answer.json()["job"] == f"/jobs/{first}"
    assert api.post("/train", json=TRAIN, headers=keyed("a")).status_code == 422


@pytest.mark.parametrize("key", ["", "with space", "x" * 256, "é".encode()])
def test_a_header_that_is_no_key_is_refused(api: httpx.Client, key: str | bytes) -> None:
    answer = api.post("/generate", json={"model": "toy"}, headers=[(b"Idempotency-Key", key if isinstance(key, bytes) else key.encode())])
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"


def test_a_client_that_leaves_finds_its_job_when_it_comes_back(api: httpx.Client, painter, eventually) -> None:
    painter.rest()
    with pytest.raises(httpx.ReadTimeout):
        api.post("/generate", json={"model": "toy"}, headers=keyed("a"), timeout=0.3)
    painter.working.set()
    job = eventually(lambda: api.get("/jobs").json()["jobs"])[0]["id"]
    answer = api.post("/generate", json={"model": "toy"}, headers=keyed("a"))
    assert (answer.status_code, answer.headers["x-ebbtide-job"]) == (200, job)


def test_training_and_calibrating_have_it_too(api: httpx.Client) -> None:
    for path, body in (("/train", TRAIN), ("/models/toy@2/calibrate", {"options": {"steps": 10}})):
        answers = [api.post(path, json=body, headers=keyed(path)) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [202, 202], answers[0].text
        assert len({(answer.json()["id"], answer.headers["x-ebbtide-seed"]) for answer in answers}) == 1


def test_two_callers_may_choose_the_same_key(api: httpx.Client) -> None:
    jobs = [
        api.post("/generate", json={"model": "toy"}, headers=keyed("a", **ASYNC, **{"X-Ebbtide-Caller": name})).json()["id"]
        for name in ("ann", "bob", "ann")
    ]
    assert jobs[0] == jobs[2] != jobs[1]


def test_the_client_sends_it(ebbtide: Client, painter) -> None:
    first = ebbtide.submit("toy", idempotency_key="a")
    assert ebbtide.submit("toy", idempotency_key="a").id == first.id
    assert ebbtide.generate("toy", layout="grid", num_images=1, idempotency_key="b").job_id != first.id
    assert ebbtide.train("fresh", "sngan", "digits", steps=5, idempotency_key="t").job.kind == "train"
