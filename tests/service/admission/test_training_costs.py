"""A training job is refused where it would take more than the settings allow, and where too many wait; both before the queue."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from models.checkpoints import Store
from tests.service.conftest import serving
from workers.queue import keys

TRAIN = {"name": "mine", "family": "sngan", "dataset": "digits", "steps": 10, "width": 8, "latent_size": 4}


def train(api: httpx.Client, **given) -> httpx.Response:
    return api.post("/train", json=TRAIN | given)


def fault(answer: httpx.Response, slug: str = "too-costly") -> dict:
    assert (answer.status_code, answer.json()["type"]) == (422, f"urn:ebbtide:{slug}"), answer.text
    return answer.json()["errors"][0]


@pytest.mark.parametrize(
    ("given", "field", "limit"),
    [
        ({"width": 1024, "latent_size": 4096}, "width", "100000000"),
        ({"batch_size": 4096, "width": 256, "dataset": "mnist"}, "batch_size", "6442450944"),
        ({"steps": 1_000_000, "width": 128, "dataset": "mnist"}, "steps", "10000"),
        ({"dataset": "celeba"}, "dataset", "6442450944"),
        ({"family": "lebm", "steps": 100_000, "options": {"hidden": 4096}}, "options", "10000"),
    ],
)
def test_a_job_that_takes_too_much_is_refused_with_field_value_and_limit(api, painter, broker, given, field, limit):
    found = fault(train(api, **given))
    asked = {"options": {"hidden": 4096, "sigma": 0.3}} | {"steps": 10, "dataset": "digits"} | given
    value = json.loads(found["value"]) if field == "options" else found["value"]
    assert (found["field"], value) == (field, {"hidden": 4096, "sigma": 0.3} if field == "options" else asked[field])
    assert limit in found["reason"]
    assert broker.recent() == []


def test_every_limit_is_a_setting(serve, settings, painter):
    painter.rest()
    roomy = {"max_training_steps": 9, "max_training_parameters": 10, "max_training_bytes": 10, "max_training_tflop": 1}
    for name, most in roomy.items():
        answer = train(serve(settings.model_copy(update={name: most})))
        assert str(most) in fault(answer)["reason"], name
    lifted = settings.model_copy(update={"max_training_parameters": 10**12, "max_training_bytes": 10**15, "max_training_tflop": 10**12})
    assert train(serve(lifted), width=1024, latent_size=4096, steps=1_000_000, batch_size=4096).status_code == 202


@pytest.mark.parametrize("dataset", ["swiss-roll", "celeba:100"])
def test_a_conditional_model_of_one_class_is_refused(api, broker, dataset):
    found = fault(train(api, dataset=dataset, options={"conditional": True}), "invalid-request")
    assert (found["field"], found["value"]) == ("options.conditional", True)
    assert "at least 2 classes" in found["reason"]
    assert broker.recent() == []


def test_images_that_a_family_cannot_make_are_refused(api):
    assert fault(train(api, dataset="gaussians-8"), "invalid-request")["field"] == "dataset"
    assert train(api, dataset="folder:mine:30").status_code == 422
    assert train(api, dataset="folder:mine:32", options={"conditional": True}).status_code == 202  # the API has no such files


def test_a_backlog_of_training_is_bounded_by_jobs_for_any_number_of_callers(serve, settings, painter, broker, redis):
    painter.rest()
    api = serve(settings.model_copy(update={"max_training_backlog": 5}))
    with ThreadPoolExecutor(8) as callers:
        answers = list(callers.map(lambda seed: train(api, seed=seed), range(40)))
    assert sorted(answer.status_code for answer in answers) == [202] * 5 + [429] * 35
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["type"] == "urn:ebbtide:too-busy"
    assert "5 training" in refused.json()["detail"]
    assert int(refused.headers["retry-after"]) > 0
    page = api.get("/metrics").text
    assert 'ebbtide_queue_depth{queue="train"} 5.0' in page
    [line] = [line for line in page.splitlines() if line.startswith('ebbtide_training_backlog_tflop{queue="train"}')]
    [job] = broker.recent(1)
    assert float(line.split()[1]) == pytest.approx(5 * job.job.tflop, rel=1e-4)
    broker.cancel(job.id)
    assert train(api).status_code == 202


def test_calibrations_wait_in_the_same_backlog(serve, settings, store, painter, redis, tmp_path):
    painter.rest()
    api = serve(settings.model_copy(update={"max_training_backlog": 2}))
    assert train(api).status_code == 202
    assert api.post("/models/toy/calibrate", json={}).status_code == 202
    assert api.post("/models/toy/calibrate", json={}).status_code == 429
    assert train(api).status_code == 429
    assert api.post("/generate", json={"model": "toy"}, headers={"Prefer": "respond-async"}).status_code == 202


def test_a_backlog_of_training_is_bounded_by_what_it_asks_for(serve, settings, painter, redis, broker):
    painter.rest()
    api = serve(settings.model_copy(update={"max_training_backlog_tflop": 30}))
    assert train(api, steps=1_000_000).status_code == 202  # an empty backlog takes a job of any size
    refused = train(api)
    assert (refused.status_code, "limit is 30" in refused.json()["detail"]) == (429, True)
    started = redis.lpop("rq:queue:train").decode()
    assert train(api).status_code == 202
    assert float(redis.hget(f"rq:job:{started}", keys.WORK)) > 12


def test_a_calibration_that_takes_too_much_is_refused(settings, store, painter, tmp_path):
    networks = {"image_shape": [3, 64, 64], "latent_size": 64, "width": 256}
    folder = tmp_path / "wide" / "1"
    folder.mkdir(parents=True)
    card = json.loads((settings.checkpoints / "toy" / "2" / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"name": "wide", "version": 1, "networks": networks}))
    with serving(settings, Store(tmp_path, tmp_path / "nothing-shipped")) as address, httpx.Client(base_url=address) as api:
        found = fault(api.post("/models/wide/calibrate", json={"options": {"steps": 100_000}}))
        assert (found["field"], found["value"]) == ("options.steps", 100_000)
        assert api.post("/models/wide/calibrate", json={"options": {"steps": 10}}).status_code == 202
