"""The promises made to callers, kept by real processes: every sampler, same request same bytes, trained then served."""

import io
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image

from models.images import read_text

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

MALA = {"kernel": "mala", "steps": 30}
OFFERED = [("tiny-sngan", "prior"), ("tiny-sngan", "ddls"), ("tiny-lebm", "prior"), ("tiny-lebm", "latent-ebm")]


def request_for(model, sampler, **more):
    return {"model": model, "sampler": sampler, "num_images": 4, "seed": 5} | ({} if sampler == "prior" else {"mcmc": MALA}) | more


def test_every_sampler_draws_and_the_same_request_gives_the_same_bytes_in_any_company(house):
    house.start_generation()
    requests = [request_for(model, sampler, seed=seed) for model, sampler in OFFERED for seed in (1, 2, 3)]
    alone = [house.client.post("/generate", json=request) for request in requests]
    assert [answer.status_code for answer in alone] == [200] * len(requests)
    with ThreadPoolExecutor(len(requests)) as callers:
        together = list(callers.map(lambda request: house.client.post("/generate", json=request), requests))
    assert [answer.content for answer in together] == [answer.content for answer in alone]
    assert len({answer.content for answer in alone}) == len(requests)
    pixels = np.asarray(Image.open(io.BytesIO(alone[0].content)))
    assert pixels.std() > 1
    assert read_text(alone[0].content)["seed"] == "1"


def test_canceling_one_of_a_batch_leaves_the_others_their_bytes(house):
    house.start_generation()
    long = {"kernel": "mala", "steps": 600}
    wanted = house.submit(**request_for("tiny-sngan", "ddls", seed=3, mcmc=long))
    unwanted = house.submit(**request_for("tiny-sngan", "ddls", seed=4, mcmc={"kernel": "mala", "steps": 10_000}))
    house.until(lambda: house.job(unwanted)["progress"])
    assert house.client.delete(f"/jobs/{unwanted}").status_code in (200, 202)
    house.until(lambda: house.job(unwanted)["status"] == "canceled", limit_s=10)
    house.finished(wanted)
    again = house.finished(house.submit(**request_for("tiny-sngan", "ddls", seed=3, mcmc=long)))
    assert house.images(wanted) == house.images(again["id"])


def test_a_model_trained_through_the_api_serves_without_a_restart(house):
    house.start_generation()
    house.start("workers.training")
    body = {
        "name": "fresh",
        "family": "lebm",
        "dataset": "digits",
        "steps": 40,
        "batch_size": 16,
        "width": 8,
        "latent_size": 8,
        "calibrate": False,
    }
    assert house.client.post("/generate", json={"model": "fresh"}).status_code in (404, 422)
    answer = house.client.post("/train", json=body)
    assert answer.status_code == 202, answer.text
    trained = house.finished(answer.headers["X-Ebbtide-Job"], limit_s=240)
    assert trained["result"]["version"] == 1
    picture = house.client.post("/generate", json={"model": "fresh", "num_images": 2, "seed": 1})
    assert picture.status_code == 200, picture.text
    assert read_text(picture.content)["digest"] == trained["result"]["digest"]
    assert house.client.get("/models/fresh").json()["version"] == 1


def test_a_worker_exports_what_it_did(house):
    port = house.free_port()
    house.start_generation(EBBTIDE_METRICS_PORT=str(port))
    house.finished(house.submit(**request_for("tiny-sngan", "ddls")))

    def figures():
        lines = httpx.get(f"http://127.0.0.1:{port}/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    told = house.until(lambda: (seen := figures()).get('ebbtide_jobs_total{model="tiny-sngan",outcome="finished",sampler="ddls"}') and seen)
    assert told['ebbtide_images_total{model="tiny-sngan",sampler="ddls"}'] == 4
    assert told['ebbtide_chain_steps_total{model="tiny-sngan",sampler="ddls"}'] >= 4 * 30
    assert told['ebbtide_model_load_seconds_count{model="tiny-sngan"}'] == 1
    assert told["ebbtide_batch_occupancy_ratio_count"] >= 30
    assert told["ebbtide_chains_capacity"] == 64
