"""A Redis whose memory or disk is full, and a full disk of images: requests fail at once with the reason, and nothing accepted is lost."""

import resource
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.system.books import close_the_books
from tests.system.house import opened, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]
ASKED = {"model": "tiny", "sampler": "prior"}
AT_ONCE_S = 10  # on a busy machine; before, the wait was that for the job


def generate(house, **given):
    """Status, slug and seconds of a request that waits for its picture."""
    began = time.monotonic()
    answer = house.client.post("/generate", json=ASKED | given)
    slug = answer.json()["type"].rpartition(":")[2] if answer.status_code != 200 else ""
    return answer.status_code, slug, time.monotonic() - began


def readiness(house):
    answer = house.client.get("/readyz")
    return answer.status_code if answer.status_code == 200 else answer.json()["type"].rpartition(":")[2]


def test_requests_that_fill_the_memory_of_redis_fail_at_once_and_all_goes_on_with_more(own_valkey, tiny_checkpoints, tmp_path):
    with opened(own_valkey.url, tiny_checkpoints, tmp_path) as house:
        worker, trainer = house.start_generation(), house.start("workers.training")
        until(lambda: house.metrics()['ebbtide_workers_alive{kind="train"}'] == 1)
        assert generate(house)[0] == 200  # loads the checkpoint
        run = {"name": "tiny-run", "family": "gan", "dataset": "digits", "width": 4, "latent_size": 2, "steps": 1_000_000}
        training = house.client.post("/train", json=run | {"calibrate": False, "evaluations": 0}).json()["id"]
        until(lambda: house.job(training)["status"] == "running")
        house.redis.config_set("maxmemory", house.redis.info("memory")["used_memory"] + (2 << 20))
        with ThreadPoolExecutor(4) as callers:
            seen = list(callers.map(lambda seed: generate(house, num_images=256, seed=seed), range(24)))
        codes = {(status, slug) for status, slug, _ in seen}
        assert (200, "") in codes, "there was room at first"
        assert codes <= {(200, ""), (503, "redis-full"), (503, "unavailable")}
        assert seen[-1][0] == 503
        assert max(seconds for _, _, seconds in seen) < AT_ONCE_S
        house.redis.config_set("maxmemory", 1)
        until(lambda: readiness(house) == "redis-full")
        until(lambda: house.workers() == 0)  # its heartbeats find no room
        assert readiness(house) == "redis-full"
        assert generate(house)[1] == "redis-full"
        assert house.client.post("/train", json={"name": "x", "family": "sngan", "dataset": "digits"}).json()["type"].endswith("redis-full")
        assert house.client.get("/livez").status_code == 200
        house.redis.config_set("maxmemory", 0)
        until(lambda: readiness(house) == 200)
        assert generate(house)[0] == 200
        until(lambda: house.metrics()['ebbtide_workers_alive{kind="train"}'] == 1)
        assert (worker.poll(), trainer.poll()) == (None, None)
        done = house.job(training)["progress"]["done"]
        until(lambda: house.job(training)["progress"]["done"] > done)
        assert house.events(training).count("started") == 1, "no other worker took the run meanwhile"
        house.client.delete(f"/jobs/{training}")
        until(lambda: not {"queued", "running"} & set(house.statuses()))
        for job_id, job in house.jobs().items():
            if job_id == training:
                continue
            if job["status"] == "finished":
                assert len(house.images(job_id)) == job["job"]["num_images"]
            else:
                assert "Redis takes no images" in job["problem"]["detail"]
        assert house.redis.zcard("rq:wip:generate") == 0


def test_jobs_under_way_when_the_disk_of_redis_is_full_are_delivered_once_there_is_room(own_valkey, tiny_checkpoints, tmp_path):
    with opened(own_valkey.url, tiny_checkpoints, tmp_path) as house:
        worker = house.start_generation()
        mala = {"sampler": "ddls", "mcmc": {"kernel": "mala", "steps": 1500}}
        accepted = [house.submit(**ASKED | mala, seed=seed) for seed in range(4)]
        until(lambda: house.statuses(accepted) == {"running": 4})
        written = max(path.stat().st_size for path in tmp_path.rglob("*.aof"))
        resource.prlimit(own_valkey.process.pid, resource.RLIMIT_FSIZE, (written, resource.RLIM_INFINITY))
        until(lambda: readiness(house) == "redis-full")
        status, slug, seconds = generate(house)
        assert (status, slug) == (503, "redis-full")
        assert seconds < AT_ONCE_S
        until(lambda: house.page(worker)["ebbtide_redis_errors_total"] >= 5)
        assert worker.poll() is None
        resource.prlimit(own_valkey.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        until(lambda: readiness(house) == 200)
        close_the_books(house, *accepted)
        assert house.statuses(accepted) == {"finished": 4}


def test_an_api_that_sees_the_disk_of_the_images_full_says_so(serve_full):
    api = serve_full
    assert api.get("/readyz").json()["type"] == "urn:ebbtide:images-full"
    refused = api.post("/generate", json={"model": "tiny"}, headers={"Prefer": "respond-async"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:ebbtide:images-full")


@pytest.fixture
def serve_full(valkey_url, redis, tiny_checkpoints, tmp_path):
    """An API whose images are on a file system without a free byte."""
    with opened(valkey_url, tiny_checkpoints, tmp_path) as house:
        port = house.free_port()
        house.start_api(port, EBBTIDE_ARTIFACTS="/sys")  # has no free byte
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as api:
            yield api
