"""GET /jobs with filters and page by page, and results that are deleted."""

import httpx
import pytest

from workers.jobs import RECORD_BYTES
from workers.queue import keys
from workers.queue.broker import Broker


def queued(api: httpx.Client) -> str:
    return api.post("/generate", json={"model": "toy"}, headers={"Prefer": "respond-async"}).json()["id"]


def listed(api: httpx.Client, **asked: object) -> list[str]:
    answer = api.get("/jobs", params=asked)
    assert answer.status_code == 200, answer.text
    return [job["id"] for job in answer.json()["jobs"]]


def test_jobs_are_listed_by_status_kind_model_caller_and_time(api: httpx.Client, painter) -> None:
    done = api.post("/generate", json={"model": "toy"}).headers["x-ebbtide-job"]
    painter.rest()
    waiting = queued(api)
    gone = queued(api)
    api.delete(f"/jobs/{gone}")
    body = {"name": "fresh", "family": "sngan", "dataset": "digits", "steps": 10}
    trained = api.post("/train", json=body, headers={"X-Ebbtide-Caller": "ann"}).json()["id"]
    assert listed(api) == [trained, gone, waiting, done]
    assert listed(api, status="finished") == [done]
    assert listed(api, status=["queued", "canceled"]) == [trained, gone, waiting]
    assert listed(api, kind="train") == listed(api, model="fresh") == listed(api, key="ann") == [trained]
    assert listed(api, model="toy", status="queued") == [waiting]
    moment = api.get(f"/jobs/{waiting}").json()["created_at"]
    assert listed(api, since=moment) == [trained, gone, waiting]
    assert listed(api, until=moment) == [done]


def test_jobs_that_are_gone_hide_none_before_them(api: httpx.Client, broker: Broker) -> None:
    kept = queued(api)
    gone = broker.submit_many([broker.view(kept).job] * 401)
    broker.redis.delete(*(f"rq:job:{job}" for job in gone))
    assert listed(api, status="queued") == [kept]


def test_a_list_is_read_page_by_page_while_jobs_arrive(api: httpx.Client) -> None:
    ids = [queued(api) for _ in range(7)]
    page = api.get("/jobs", params={"limit": 3, "status": "queued"}).json()
    seen = [job["id"] for job in page["jobs"]]
    queued(api)
    while page["next"]:
        page = api.get(page["next"]).json()
        seen += [job["id"] for job in page["jobs"]]
    assert seen == ids[::-1]


@pytest.mark.parametrize(
    ("asked", "field"),
    [({"status": "done"}, "status.0"), ({"limit": 0}, "limit"), ({"since": "x"}, "since"), ({"after": "a b"}, "after")],
)
def test_a_filter_that_makes_no_sense_is_refused(api: httpx.Client, asked: dict[str, object], field: str) -> None:
    answer = api.get("/jobs", params=asked)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert api.get("/jobs", params={"after": "unheard-of"}).status_code == 404


def test_results_can_be_deleted_once_a_job_is_over_and_then_no_longer_count(api: httpx.Client, painter, broker: Broker) -> None:
    job = api.post("/generate", json={"model": "toy", "num_images": 3}).headers["x-ebbtide-job"]
    broker.redis.expire(f"rq:job:{job}", 60)  # as the script does that ends jobs
    for _ in range(2):
        answer = api.delete(f"/jobs/{job}/results")
        assert (answer.status_code, answer.json()["status"]) == (200, "finished")
        assert int(broker.redis.hget(keys.KEPT_BY, keys.KEPT_BY_ALL)) == RECORD_BYTES
    for name in ("grid", "0", "2"):
        assert api.get(f"/jobs/{job}/images/{name}").status_code == 410
    assert api.get(f"/jobs/{job}").json()["result"]["diagnostics"]
    painter.rest()
    waiting = queued(api)
    assert api.delete(f"/jobs/{waiting}/results").json()["type"] == "urn:ebbtide:not-over"
    assert api.delete("/jobs/unheard-of/results").status_code == 404
