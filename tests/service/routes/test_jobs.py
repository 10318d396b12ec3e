"""Jobs, training, models, health, metrics and the OpenAPI document."""

import json
import threading

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from models.families import FAMILIES
from service.app import create_app
from workers.queue.broker import Broker

ASYNC = {"Prefer": "respond-async"}


def queued(api: httpx.Client, **body: object) -> str:
    return api.post("/generate", json={"model": "toy", **body}, headers=ASYNC).json()["id"]


def test_a_queue_has_an_order(api: httpx.Client) -> None:
    first, second = queued(api), queued(api)
    urgent = queued(api, priority="high")
    assert [api.get(f"/jobs/{job}").json()["queue_position"] for job in (urgent, first, second)] == [0, 1, 2]
    assert [job["id"] for job in api.get("/jobs", params={"limit": 2}).json()["jobs"]] == [urgent, second]


def test_a_queued_job_can_be_canceled_and_only_it(api: httpx.Client) -> None:
    kept, gone = queued(api), queued(api)
    assert api.delete(f"/jobs/{gone}").json()["status"] == "canceled"
    assert api.get(f"/jobs/{kept}").json()["status"] == "queued"


def test_canceling_a_finished_job_changes_nothing(api: httpx.Client, painter) -> None:
    job = api.post("/generate", json={"model": "toy"}).headers["x-ebbtide-job"]
    assert api.delete(f"/jobs/{job}").json()["status"] == "finished"


def test_a_running_job_shows_progress_and_eta(api: httpx.Client, painter, broker: Broker, eventually) -> None:
    painter.rest()
    job_id = queued(api)
    job = eventually(painter.take)
    broker.redis.set(f"ebbtide:progress:{job_id}", json.dumps({"done": 10, "total": 40}))
    view = api.get(f"/jobs/{job_id}").json()
    assert (view["status"], view["progress"]["done"]) == ("running", 10)
    assert view["eta_s"] >= 0
    painter.finish(job)
    assert api.get(f"/jobs/{job_id}").json()["eta_s"] is None


def test_a_queued_job_has_an_eta_once_a_pace_is_known(api: httpx.Client, painter, broker: Broker) -> None:
    painter.rest()
    first, second = queued(api), queued(api)
    urgent = queued(api, priority="high", mcmc={"steps": 10})
    assert api.get(f"/jobs/{first}").json()["eta_s"] is None
    broker.redis.hset("rq:worker:painter", "chain_steps_per_s", 10)
    etas = [api.get(f"/jobs/{job}").json()["eta_s"] for job in (urgent, first, second)]
    assert etas == [1.0, 5.0, 9.0]


def test_images_of_a_job_that_has_none_yet(api: httpx.Client) -> None:
    answer = api.get(f"/jobs/{queued(api)}/images/0")
    assert (answer.status_code, answer.json()["type"]) == (404, "urn:ebbtide:no-image")


def test_images_that_never_were_and_images_no_longer_kept(api: httpx.Client, painter, broker: Broker) -> None:
    job = api.post("/generate", json={"model": "toy"}).headers["x-ebbtide-job"]
    assert api.get(f"/jobs/{job}/images/1").status_code == 404
    broker.redis.delete(f"ebbtide:artifact:{job}:0.png")
    assert api.get(f"/jobs/{job}/images/0").status_code == 410


def events(lines: list[str]) -> list[dict[str, str]]:
    blocks = "\n".join(lines).split("\n\n")
    return [dict(line.split(": ", 1) for line in block.splitlines()) for block in blocks if block.startswith("event")]


def test_events_are_streamed_to_the_end_and_resumed_in_the_middle(api: httpx.Client, painter) -> None:
    painter.rest()
    job = queued(api)
    with api.stream("GET", f"/jobs/{job}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        head = [next(lines) for _ in range(4)]
        assert events(head)[0]["event"] == "queued"
        painter.working.set()
        everything = events(head + list(lines))
    assert [event["event"] for event in everything] == ["queued", "started", "progress", "end"]
    resumed = api.get(f"/jobs/{job}/events", headers={"Last-Event-ID": everything[1]["id"]})
    assert [event["event"] for event in events(resumed.text.splitlines())] == ["progress", "end"]
    assert api.get(f"/jobs/{job}/events", headers={"Last-Event-ID": everything[3]["id"]}).status_code == 204


@pytest.mark.parametrize("last", ["x", "1-2-3", "$", "9" * 20, "1-" + "9" * 20])
def test_a_strange_last_event_id_is_refused(api: httpx.Client, last: str) -> None:
    answer = api.get(f"/jobs/{queued(api)}/events", headers={"Last-Event-ID": last})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "last-event-id")


def test_a_stream_that_is_resumed_where_nothing_is_new_repeats_nothing(api: httpx.Client, painter) -> None:
    painter.rest()
    job = queued(api)
    with api.stream("GET", f"/jobs/{job}/events") as stream:
        lines = stream.iter_lines()
        last = events([next(lines) for _ in range(4)])[-1]["id"]
    with api.stream("GET", f"/jobs/{job}/events", headers={"Last-Event-ID": last}) as stream:
        painter.working.set()
        assert [event["event"] for event in events(list(stream.iter_lines()))] == ["started", "progress", "end"]


def test_a_stream_ends_with_its_job(api: httpx.Client, painter, broker: Broker) -> None:
    painter.rest()
    for lost, told in ((f"ebbtide:events:{queued(api)}", ["end"]), (f"rq:job:{queued(api)}", [])):
        job = lost.rpartition(":")[2]
        with api.stream("GET", f"/jobs/{job}/events") as stream:
            lines = stream.iter_lines()
            assert events([next(lines) for _ in range(4)])[0]["event"] == "queued"
            broker.redis.hset(f"rq:job:{job}", "status", "finished")
            broker.redis.delete(lost)
            assert [event["event"] for event in events(list(lines))] == told


def test_training_takes_options_of_its_family_and_fills_the_rest(api: httpx.Client) -> None:
    body = {"name": "mine", "family": "lebm", "dataset": "digits", "options": {"sigma": 0.2}}
    assert api.post("/train", json=body).json()["job"]["options"] == {"sigma": 0.2, "hidden": 200}


def test_the_description_shows_samplers_and_the_options_of_every_family(api: httpx.Client) -> None:
    schemas = api.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["GenerateRequest"]["properties"]["sampler"]["anyOf"][0]["enum"] == ["prior", "ddls", "latent-ebm", "pixel", "posterior"]
    options = schemas["TrainRequest"]["properties"]["options"]["anyOf"]
    shown = [schemas[option["$ref"].rpartition("/")[2]] for option in options]
    assert {"sigma", "hidden"} in [set(schema.get("properties", {})) for schema in shown]
    assert len(shown) == len(FAMILIES)


def test_training_is_accepted_and_leaves_samples(api: httpx.Client, painter, eventually) -> None:
    answer = api.post("/train", json={"name": "mine", "family": "sngan", "dataset": "mnist:without-1", "steps": 5})
    assert answer.status_code == 202
    place = answer.headers["location"]
    assert int(answer.headers["x-ebbtide-seed"]) == answer.json()["job"]["seed"]
    eventually(lambda: api.get(place).json()["status"] == "finished")
    job = api.get(place).json()
    assert (job["result"]["model"], job["job"]["steps"]) == ("mine", 5)
    assert api.get(job["links"]["artifacts"][0]).headers["content-type"] == "image/png"


def test_models_show_cards_versions_and_samples(api: httpx.Client) -> None:
    (model,) = api.get("/models").json()["models"]
    assert (model["name"], model["version"], model["versions"]) == ("toy", 2, [1, 2])
    assert model["samplers"]["ddls"]["steps"] == 40
    assert api.get("/models/toy").json() == model
    assert api.get("/models/toy@1").json()["version"] == 1
    assert api.get(model["samples"]).headers["content-type"] == "image/png"
    assert api.get("/models/toy/samples.png").status_code == 200


def test_a_model_published_meanwhile_is_there(api: httpx.Client, settings, store) -> None:
    home = settings.checkpoints / "late" / "1"
    home.mkdir(parents=True)
    card = store.card("toy").model_copy(update={"name": "late", "version": 1})
    (home / "card.json").write_text(card.model_dump_json())
    try:
        assert api.get("/models/late").status_code == 200
    finally:
        (home / "card.json").unlink()


def test_ready_means_redis_and_a_worker(api: httpx.Client, painter) -> None:
    assert api.get("/readyz").json() == {"status": "ready"}
    painter.disappear()
    assert (api.get("/readyz").status_code, api.get("/readyz").json()["type"]) == (503, "urn:ebbtide:no-worker")
    assert api.get("/livez").json() == {"status": "alive"}


def test_metrics_have_their_names_and_labels(serve, settings, painter) -> None:
    api = serve(settings)
    api.post("/generate", json={"model": "toy"})
    painter.rest()
    job = queued(api, num_images=2)
    api.get(f"/jobs/{job}")
    api.get("/nowhere/at/all")
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(api.get("/metrics").text)
        for sample in family.samples
    }

    def figure(name: str, **labels: str) -> float:
        return samples[(f"ebbtide_{name}", *sorted(labels.items()))]

    assert figure("http_requests_total", route="/generate", method="POST", status="200") == 1
    assert figure("http_requests_total", route="/jobs/{job_id}", method="GET", status="200") == 1
    assert figure("http_requests_total", route="unmatched", method="GET", status="404") == 1
    assert figure("http_request_duration_seconds_count", route="/generate", method="POST", status="202") == 1
    assert figure("queue_depth", queue="generate") == 1
    assert figure("queue_backlog_chain_steps", queue="generate") == 80
    assert figure("queue_oldest_age_seconds", queue="generate") >= 0
    assert figure("workers_alive", kind="generate") == 1
    assert figure("workers_alive", kind="train") == 0
    assert figure("redis_up") == 1
    assert any(name == "ebbtide_build_info" for name, *_ in samples)


def test_two_apps_share_no_metrics(settings, store) -> None:
    first, second = (create_app(settings, store=store) for _ in range(2))
    first.state.dependencies.metrics.rejected.labels("internal").inc()
    assert second.state.dependencies.metrics.registry.get_sample_value("ebbtide_rejected_total", {"reason": "internal"}) is None


def test_the_playground_needs_no_other_server(api: httpx.Client) -> None:
    page = api.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_the_openapi_document_covers_bodies_and_problems(api: httpx.Client) -> None:
    document = api.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(schemas[body["$ref"].rpartition("/")[2]]["properties"]) >= {"model", "sampler", "mcmc", "num_images", "seed"}
    kernels = schemas["GenerateRequest"]["properties"]["mcmc"]["anyOf"]
    assert {kernel.get("$ref", "").rpartition("/")[2] for kernel in kernels} >= {"Mala", "Langevin"}
    for path in document["paths"].values():
        for operation in path.values():
            assert "application/problem+json" in operation["responses"]["default"]["content"]


def test_a_stream_ends_when_its_job_is_canceled(serve, settings, painter) -> None:
    api = serve(settings)
    painter.rest()
    job = queued(api)
    read = threading.Event()

    def follow() -> None:
        with api.stream("GET", f"/jobs/{job}/events") as stream:
            for _ in stream.iter_lines():
                read.set()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    assert read.wait(10)
    api.delete(f"/jobs/{job}")
    follower.join(10)
    assert not follower.is_alive()
