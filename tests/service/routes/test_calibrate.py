"""POST /models/{name}/calibrate, and what a card and its files say of a calibration."""

import httpx
import pytest

from models.calibration.settings import Isotonic, RatioHead
from service.client import Client
from workers.queue.broker import Broker


def test_a_calibration_is_accepted_with_everything_filled_in(api: httpx.Client, broker: Broker) -> None:
    answer = api.post("/models/toy@2/calibrate", json={"options": {"steps": 100}, "seed": 7})
    assert (answer.status_code, answer.headers["x-ebbtide-seed"]) == (202, "7")
    job = broker.view(answer.headers["x-ebbtide-job"]).job
    assert (job.kind, job.queue, job.model, job.version, job.dataset, job.seed) == ("calibrate", "calibrate", "toy", 2, "digits", 7)
    assert job.settings == RatioHead(steps=100)


def test_the_client_gets_the_new_version(api: httpx.Client, ebbtide: Client, painter) -> None:
    job = ebbtide.wait(ebbtide.calibrate("toy", method="isotonic", dataset="mnist").id)
    assert (job.job.settings, job.job.dataset) == (Isotonic(), "mnist")
    assert (job.result.model, job.result.version) == ("toy", 3)


def test_a_calibration_that_does_not_help_says_so(api: httpx.Client, ebbtide: Client, painter) -> None:
    painter.failure = "workers.training.process.JobFailed: no-gain: FID stays at 14.5; nothing was published"
    job = ebbtide.wait(ebbtide.calibrate("toy").id)
    assert (job.status, job.problem.reason) == ("failed", "no-gain")
    assert job.problem.detail == "FID stays at 14.5; nothing was published"


@pytest.mark.parametrize(
    ("body", "field", "choices"),
    [
        ({"method": "platt"}, "method", {"ratio-head", "logistic", "isotonic"}),
        ({"dataset": "imagenet"}, "dataset", {"digits", "mnist"}),
        ({"options": {"step": 5}}, "options.step", {"steps", "heads"}),
        ({"options": {"steps": 0}}, "options.steps", set()),
        ({"options": {"stages": 3}}, "options.stages", set()),
        ({"method": "logistic", "options": {"steps": 5}}, "options.steps", set()),
        ({"seed": -1}, "seed", set()),
    ],
)
def test_a_wrong_request_names_the_field(api: httpx.Client, body: dict, field: str, choices: set[str]) -> None:
    answer = api.post("/models/toy/calibrate", json=body)
    assert answer.status_code == 422, answer.text
    fault = answer.json()["errors"][0]
    assert fault["field"] == field
    assert choices <= set(fault["choices"])


def test_only_models_that_need_it_are_calibrated(api: httpx.Client) -> None:
    assert api.post("/models/nobody/calibrate", json={}).status_code == 404
    refused = api.post("/models/toy@1/calibrate", json={})
    assert refused.status_code == 422
    (fault,) = refused.json()["errors"]
    assert (fault["field"], fault["value"], fault["choices"]) == ("name", "toy", ["toy"])
    assert "no sampler that rests on a calibration" in fault["reason"]


def test_a_plot_is_there_where_there_is_one(api: httpx.Client) -> None:
    assert api.get("/models/toy").json()["reliability"] == "/models/toy@2/reliability.png"
    assert api.get("/models/toy/reliability.png").headers["content-type"] == "image/png"
    assert api.get("/models/toy@1").json()["reliability"] is None
    assert api.get("/models/toy@1/reliability.png").status_code == 404
