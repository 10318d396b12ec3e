"""Every refusal is a problem document that names the field, its value and the choices, and never a 500."""

import json

import httpx
import pytest

from service.protocol.errors import KINDS
from workers.queue.broker import Broker

TRAIN = {"name": "mine", "family": "sngan", "dataset": "digits"}


def problem(answer: httpx.Response) -> dict:
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    document = answer.json()
    kind = KINDS[document["type"].removeprefix("urn:ebbtide:")]
    assert (document["status"], document["title"]) == (answer.status_code, kind.title)
    assert document["detail"]
    return document


def fault(answer: httpx.Response, status: int = 422) -> dict:
    assert answer.status_code == status, answer.text
    return problem(answer)["errors"][0]


@pytest.mark.parametrize(
    ("body", "field", "value", "choices"),
    [
        ({"model": "nobody"}, "model", "nobody", {"toy"}),
        ({"model": "toy@9"}, "model", "toy@9", {"toy@1", "toy@2"}),
        ({"model": "../../etc/passwd"}, "model", "../../etc/passwd", {"toy"}),
        ({"sampler": "latent-ebm"}, "sampler", "latent-ebm", {"prior", "ddls"}),
        ({"sampler": "gibbs"}, "sampler", "gibbs", {"prior", "ddls"}),
        ({"layout": "row"}, "layout", "row", {"grid", "images"}),
        ({"priority": 1}, "priority", 1, {"high", "normal", "low"}),
        ({"mcmc": {"kernel": "nuts"}}, "mcmc.kernel", "nuts", {"mala", "langevin"}),
        ({"mcmc": {"kernel": 7}}, "mcmc.kernel", 7, {"mala", "langevin"}),
        ({"mcmc": {"stepsize": 0.1}}, "mcmc.stepsize", 0.1, {"steps", "step_size", "noise_scale", "temperature"}),
        ({"sampler": "prior", "mcmc": {"steps": 3}}, "mcmc", '{"steps": 3}', {"ddls"}),
        ({"num_image": 4}, "num_image", 4, {"num_images", "model", "seed"}),
    ],
)
def test_a_refusal_names_field_value_and_choices(api: httpx.Client, body: dict, field: str, value: object, choices: set[str]) -> None:
    found = fault(api.post("/generate", json={"model": "toy"} | body))
    assert (found["field"], found["value"]) == (field, value)
    assert choices <= set(found["choices"])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"num_images": 0}, "num_images"),
        ({"num_images": 257}, "num_images"),
        ({"num_images": 10**30}, "num_images"),
        ({"num_images": "4"}, "num_images"),
        ({"num_images": True}, "num_images"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"mcmc": {"step_size": 5}}, "mcmc.step_size"),
        ({"mcmc": {"step_size": 0}}, "mcmc.step_size"),
        ({"mcmc": {"step_size": float("nan")}}, "mcmc.step_size"),
        ({"mcmc": {"step_size": float("-inf")}}, "mcmc.step_size"),
        ({"mcmc": {"step_size": 10**400}}, "mcmc.step_size"),
        ({"mcmc": {"steps": 10_001}}, "mcmc.steps"),
        ({"mcmc": {"steps": 1.5}}, "mcmc.steps"),
        ({"mcmc": {"steps": None}}, "mcmc.steps"),
        ({"mcmc": {"noise_scale": [[]]}}, "mcmc.noise_scale"),
        ({"mcmc": []}, "mcmc"),
        ({"mcmc": "mala"}, "mcmc"),
        ({"model": None}, "model"),
        ({"model": "x" * 10_000}, "model"),
    ],
)
def test_values_out_of_bounds_are_refused_before_the_queue(api: httpx.Client, broker: Broker, body: dict, field: str) -> None:
    answer = api.post("/generate", content=json.dumps({"model": "toy"} | body))
    assert fault(answer)["field"] == field
    assert len(answer.text) < 2000
    assert broker.recent() == []


def test_all_faults_are_reported_together(api: httpx.Client) -> None:
    found = problem(api.post("/generate", json={"num_images": 0, "seed": -1}))["errors"]
    assert {one["field"] for one in found} == {"model", "num_images", "seed"}


def test_one_server_may_allow_fewer_images(serve, settings, broker: Broker) -> None:
    api = serve(settings.model_copy(update={"max_images": 2}))
    assert fault(api.post("/generate", json={"model": "toy", "num_images": 3}))["field"] == "num_images"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"{'model': 'toy'}",
        b"\xff\xfe",
        b'{"model": "\xff"}',
        b'{"model": "\\ud800"}',
        b"[" * 30_000,
        b'{"model":' * 5_000,
        b'{"seed": ' + b"9" * 60_000 + b"}",
        b"1e999999",
        b"model=toy",
        b"null",
        b"[]",
        b'"toy"',
    ],
    ids=lambda content: repr(content[:12]),
)
@pytest.mark.parametrize("path", ["/generate", "/train"])
def test_a_body_that_is_no_request_answers_4xx(api: httpx.Client, path: str, content: bytes) -> None:
    answer = api.post(path, content=content)
    assert answer.status_code in (400, 422)
    problem(answer)


def test_malformed_json_says_where(api: httpx.Client) -> None:
    answer = api.post("/generate", content=b'{"model": toy}')
    assert answer.status_code == 400
    assert "column" in problem(answer)["detail"]


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_too_large_is_refused(api: httpx.Client, settings, declared: bool) -> None:
    def pieces():
        for _ in range(settings.max_body_bytes // 1024 + 1):
            yield b" " * 1024

    answer = api.post("/generate", content=b"".join(pieces()) if declared else pieces())
    assert answer.status_code == 413
    assert str(settings.max_body_bytes) in problem(answer)["detail"]


def test_requests_from_pages_of_other_origins_are_refused(api: httpx.Client, address: str) -> None:
    foreign = api.post(
        "/generate", content=b'{"model":"toy"}', headers={"Origin": "https://elsewhere.example", "Content-Type": "text/plain"}
    )
    assert foreign.status_code == 403
    problem(foreign)
    proxied = {"Origin": "https://ebbtide.example", "X-Forwarded-Host": "ebbtide.example"}
    for own in ({"Origin": address}, proxied):
        assert api.post("/generate", json={"model": "toy"}, headers={**own, "Prefer": "respond-async"}).status_code == 202


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"family": "diffusion"}, "family"),
        ({"dataset": "../mnist"}, "dataset"),
        ({"dataset": "folder:../mnist"}, "dataset"),
        ({"dataset": "folder"}, "dataset"),
        ({"dataset": "mnist:without-10"}, "dataset"),
        ({"dataset": "swiss-roll:1"}, "dataset"),
        ({"name": "No Spaces"}, "name"),
        ({"steps": 0}, "steps"),
        ({"width": 10**6}, "width"),
        ({"epochs": 3}, "epochs"),
        ({"options": 3}, "options"),
        ({"options": {"sigma": 0.2}}, "options.sigma"),
        ({"family": "lebm", "options": {"hidden": "many"}}, "options.hidden"),
    ],
)
def test_train_requests_are_validated(api: httpx.Client, body: dict, field: str) -> None:
    assert fault(api.post("/train", json=TRAIN | body))["field"] == field


def test_an_option_that_a_family_has_not_names_those_it_has(api: httpx.Client) -> None:
    found = fault(api.post("/train", json=TRAIN | {"family": "lebm", "options": {"sigmma": 0.2}}))
    assert (found["field"], found["value"], set(found["choices"])) == ("options.sigmma", 0.2, {"sigma", "hidden"})


@pytest.mark.parametrize("family_or_dataset", ["family", "dataset"])
def test_a_train_refusal_names_the_choices(api: httpx.Client, family_or_dataset: str) -> None:
    found = fault(api.post("/train", json=TRAIN | {family_or_dataset: "no-such"}))
    assert TRAIN[family_or_dataset] in found["choices"]


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/nowhere", 404, "not-found"),
        ("PUT", "/generate", 405, "method-not-allowed"),
        ("GET", "/generate", 405, "method-not-allowed"),
        ("GET", "/jobs/unknown", 404, "unknown-job"),
        ("DELETE", "/jobs/unknown", 404, "unknown-job"),
        ("GET", "/jobs/unknown/events", 404, "unknown-job"),
        ("GET", "/jobs/unknown/images/0", 404, "unknown-job"),
        ("GET", "/jobs/unknown/images/grid", 404, "unknown-job"),
        ("GET", "/jobs/unknown/artifacts/sample-1.png", 404, "unknown-job"),
        ("GET", "/jobs/a%20b", 422, "invalid-request"),
        ("GET", "/jobs/unknown/images/x", 422, "invalid-request"),
        ("GET", "/jobs?limit=0", 422, "invalid-request"),
        ("GET", "/models/nobody", 404, "unknown-model"),
        ("GET", "/models/toy@7", 404, "unknown-model"),
        ("GET", "/models/..%2F..", 404, "not-found"),
        ("GET", "/models/toy@1/samples.png", 404, "no-image"),
    ],
)
def test_unknown_addresses_and_methods_are_refused(api: httpx.Client, method: str, path: str, status: int, slug: str) -> None:
    answer = api.request(method, path)
    assert answer.status_code == status
    assert problem(answer)["type"] == f"urn:ebbtide:{slug}"


def test_refusals_are_counted_by_reason(serve, settings, broker: Broker) -> None:
    api = serve(settings)
    api.post("/generate", json={"model": "nobody"})
    api.post("/generate", content=b"{")
    assert api.get("/readyz").status_code == 503  # a probe that fails is no request refused
    figures = api.get("/metrics").text
    assert 'ebbtide_rejected_total{reason="invalid-request"} 1.0' in figures
    assert 'ebbtide_rejected_total{reason="malformed-json"} 1.0' in figures
    assert 'reason="no-worker"' not in figures


def test_an_unexpected_error_is_a_500_without_its_trace(serve, settings, broker: Broker) -> None:
    card = settings.checkpoints / "damaged" / "1" / "card.json"
    card.parent.mkdir(parents=True)
    card.write_text("{}")
    api = serve(settings)
    try:
        answer = api.get("/models/damaged")
    finally:
        card.unlink()
    assert answer.status_code == 500
    assert "card.json" not in problem(answer)["detail"]
    assert 'route="/models/{reference}",status="500"' in api.get("/metrics").text


def test_without_redis_answers_are_503_with_retry_after(serve, settings, broker: Broker) -> None:
    api = serve(settings.model_copy(update={"redis_url": "redis://127.0.0.1:1/0"}))
    for answer in (
        api.post("/generate", json={"model": "toy"}),
        api.post("/train", json=TRAIN),
        api.get("/jobs/unknown"),
        api.get("/jobs/unknown/images/0"),
        api.get("/jobs"),
        api.get("/readyz"),
    ):
        assert answer.status_code == 503
        assert problem(answer)["type"] == "urn:ebbtide:redis-away"
        assert int(answer.headers["retry-after"]) > 0
    assert api.get("/livez").status_code == 200
    assert "ebbtide_redis_up 0.0" in api.get("/metrics").text
    assert api.get("/models/toy").status_code == 200
