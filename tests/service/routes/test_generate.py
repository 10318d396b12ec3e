"""POST /generate: content negotiation, Prefer, seeds, defaults, closed connections, failed jobs."""

import io
import socket
import threading
import zipfile
from base64 import b64decode
from collections.abc import Callable

import httpx
import pytest
from PIL import Image

from workers.jobs import Status
from workers.queue.broker import Broker

PNG = b"\x89PNG\r\n\x1a\n"
ASYNC = {"Prefer": "respond-async"}


def width(png: bytes) -> int:
    return int.from_bytes(png[16:20], "big")


def test_the_default_answer_is_the_picture(api: httpx.Client, painter) -> None:
    answer = api.post("/generate", json={"model": "toy"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    assert answer.content.startswith(PNG)
    job = answer.headers["x-ebbtide-job"]
    assert answer.headers["content-location"] == f"/jobs/{job}/images/0"
    assert api.get(answer.headers["content-location"]).content == answer.content


def test_several_images_come_as_one_grid(api: httpx.Client, painter) -> None:
    answer = api.post("/generate", json={"model": "toy", "num_images": 5})
    assert width(answer.content) == 5
    assert answer.headers["content-location"].endswith("/images/grid")


def test_curl_needs_no_media_type(api: httpx.Client, painter) -> None:
    answer = api.post("/generate", content=b'{"model":"toy"}', headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.content.startswith(PNG)


def test_json_gives_the_job_with_links_that_work(api: httpx.Client, painter) -> None:
    body = {"model": "toy", "num_images": 3, "layout": "images"}
    job = api.post("/generate", json=body, headers={"Accept": "application/json"}).json()
    assert job["status"] == "finished"
    assert len(job["links"]["images"]) == 3
    for link in (*job["links"]["images"], job["links"]["grid"], job["links"]["self"]):
        assert api.get(link).status_code == 200


def test_json_has_the_images_where_that_is_asked_for(api: httpx.Client, painter) -> None:
    body, accept = {"model": "toy", "num_images": 3}, {"Accept": "application/json"}
    job = api.post("/generate", params={"images": "base64"}, json=body, headers=accept).json()
    assert [b64decode(picture) for picture in job["pictures"]] == [api.get(link).content for link in job["links"]["images"]]
    assert "pictures" not in api.post("/generate", json=body, headers=accept).json()
    refused = api.post("/generate", params={"images": "hex"}, json=body, headers=accept)
    assert (refused.status_code, refused.json()["errors"][0]["choices"]) == (422, ["links", "base64"])


def test_zip_gives_every_picture(api: httpx.Client, painter) -> None:
    answer = api.post("/generate", json={"model": "toy", "num_images": 3}, headers={"Accept": "application/zip"})
    assert answer.headers["content-type"] == "application/zip"
    archive = zipfile.ZipFile(io.BytesIO(answer.content))
    assert {"0.png", "1.png", "2.png"} <= set(archive.namelist())
    assert archive.read("1.png").startswith(PNG)


def test_webp_has_the_same_pixels_at_once_and_later(api: httpx.Client, painter) -> None:
    webp = {"Accept": "image/webp"}
    answer = api.post("/generate", json={"model": "toy", "num_images": 3}, headers=webp)
    png = api.get(answer.headers["content-location"])
    again = api.get(answer.headers["content-location"], headers=webp)
    assert (png.headers["content-type"], again.headers["content-type"]) == ("image/png", "image/webp")
    assert again.headers["etag"] != png.headers["etag"]
    pictures = [Image.open(io.BytesIO(one.content)) for one in (png, answer, again)]
    assert [one.format for one in pictures] == ["PNG", "WEBP", "WEBP"]
    assert len({one.convert("RGB").tobytes() for one in pictures}) == 1


def test_separate_images_come_as_a_zip_by_default(api: httpx.Client, painter) -> None:
    body = {"model": "toy", "num_images": 3, "layout": "images"}
    assert api.post("/generate", json=body).headers["content-type"] == "application/zip"
    refused = api.post("/generate", json=body, headers={"Accept": "image/png"})
    assert refused.status_code == 406
    assert refused.json()["errors"][0]["choices"] == ["application/zip", "application/json", "application/octet-stream"]


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "image/png"),
        ("image/*", "image/png"),
        ("text/html,application/xhtml+xml,image/avif,*/*;q=0.8", "image/png"),
        ("image/png;q=0.1, application/json", "application/json"),
        ("*/*;q=0.1, image/png;q=0", "application/json"),
        ("image/webp", "image/webp"),
        ("image/png;q=0.5, image/webp;q=0.9", "image/webp"),
        ("image/webp, image/png", "image/png"),
    ],
)
def test_accept_qualities_choose_the_media_type(api: httpx.Client, painter, accept: str, media: str) -> None:
    assert api.post("/generate", json={"model": "toy"}, headers={"Accept": accept}).headers["content-type"] == media


@pytest.mark.parametrize("accept", ["text/plain", "image/png;q=0", "image/png;q=x"])
def test_a_media_type_that_is_not_offered_is_refused_before_the_queue(api: httpx.Client, painter, broker: Broker, accept: str) -> None:
    assert api.post("/generate", json={"model": "toy"}, headers={"Accept": accept}).status_code == 406
    assert broker.recent() == []


def test_a_random_seed_is_in_the_answer(api: httpx.Client, painter) -> None:
    seeds = [int(api.post("/generate", json={"model": "toy"}).headers["x-ebbtide-seed"]) for _ in range(8)]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**53  # less with a chance of 2**-80
    assert api.post("/generate", json={"model": "toy", "seed": 7}).headers["x-ebbtide-seed"] == "7"


@pytest.mark.parametrize("seed", [2**53 + 1, 2**63 - 1])
def test_a_seed_keeps_all_its_digits_on_its_way_through_the_queue(api: httpx.Client, painter, seed: int) -> None:
    answer = api.post("/generate", json={"model": "toy", "seed": seed}, headers={"Accept": "application/json"})
    assert answer.headers["x-ebbtide-seed"] == str(seed)
    job = api.get(f"/jobs/{answer.headers['x-ebbtide-job']}").json()["job"]
    assert job["seed"] == seed


def submitted(api: httpx.Client, body: dict) -> dict:
    answer = api.post("/generate", json={"model": "toy", **body}, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]


def test_missing_settings_come_from_the_card(api: httpx.Client) -> None:
    job = submitted(api, {})
    assert (job["version"], job["sampler"], job["digest"]) == (2, "ddls", "a" * 64)
    assert (job["mcmc"]["kernel"], job["mcmc"]["steps"], job["mcmc"]["step_size"]) == ("mala", 40, 0.2)


def test_a_version_can_be_named(api: httpx.Client) -> None:
    assert submitted(api, {"model": "toy@1"})["version"] == 1


@pytest.mark.parametrize("named", [{}, {"kernel": "mala"}])
def test_settings_of_the_same_kernel_fill_up_from_the_card(api: httpx.Client, named: dict) -> None:
    mcmc = submitted(api, {"mcmc": {**named, "steps": 9}})["mcmc"]
    assert (mcmc["kernel"], mcmc["steps"], mcmc["step_size"]) == ("mala", 9, 0.2)


def test_settings_of_another_kernel_fill_up_from_that_kernel(api: httpx.Client) -> None:
    mcmc = submitted(api, {"mcmc": {"kernel": "langevin", "steps": 9}})["mcmc"]
    assert (mcmc["kernel"], mcmc["steps"], mcmc["step_size"]) == ("langevin", 9, 0.01)


def test_prior_has_no_kernel(api: httpx.Client) -> None:
    assert submitted(api, {"sampler": "prior"})["mcmc"] is None


def test_respond_async_answers_at_once(api: httpx.Client, painter) -> None:
    painter.rest()
    answer = api.post("/generate", json={"model": "toy", "priority": "low"}, headers=ASYNC)
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    job = answer.json()
    assert answer.headers["location"] == job["links"]["self"] == f"/jobs/{job['id']}"
    assert (job["status"], job["queue_position"]) == ("queued", 0)


def test_wait_answers_the_picture_in_time_and_202_otherwise(api: httpx.Client, painter) -> None:
    in_time = api.post("/generate", json={"model": "toy"}, headers={"Prefer": "wait=10"})
    assert (in_time.status_code, in_time.headers["preference-applied"]) == (200, "wait=10")
    painter.rest()
    late = api.post("/generate", json={"model": "toy"}, headers={"Prefer": "respond-async, wait=1"})
    assert (late.status_code, late.headers["preference-applied"]) == (202, "wait=1")


def test_an_unknown_preference_is_ignored(api: httpx.Client, painter) -> None:
    answer = api.post("/generate", json={"model": "toy"}, headers={"Prefer": "wait=soon, handling=lenient"})
    assert answer.status_code == 200
    assert "preference-applied" not in answer.headers


def test_the_wait_for_an_answer_is_limited(serve, settings, painter) -> None:
    painter.rest()
    answer = serve(settings.model_copy(update={"wait_s": 0.05})).post("/generate", json={"model": "toy"})
    assert answer.status_code == 202


def test_closing_the_connection_cancels_the_job(api: httpx.Client, address: str, painter, broker: Broker, eventually: Callable) -> None:
    painter.rest()
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        body = b'{"model":"toy"}'
        connection.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        eventually(broker.recent)
    eventually(lambda: broker.recent()[0].status is Status.CANCELED)
    eventually(lambda: 'route="/generate",status="499"' in api.get("/metrics").text)


def test_closing_the_connection_leaves_the_job_where_the_caller_said_how_long_to_wait(
    api: httpx.Client, address: str, painter, broker: Broker, eventually: Callable
) -> None:
    painter.rest()
    body = b'{"model":"toy"}'
    with socket.create_connection(address.removeprefix("http://").split(":")) as wire:
        wire.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nPrefer: wait=60\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        (job,) = eventually(lambda: broker.recent(1))
    api.get("/livez")  # the server has seen the end of the connection
    painter.working.set()
    assert eventually(lambda: (view := broker.view(job.id)).status.over and view).status is Status.FINISHED


@pytest.mark.parametrize(
    ("failure", "status", "slug"),
    [
        ("diverged: chain 3 at step 17", 422, "diverged"),
        ("expired: the deadline passed", 504, "expired"),
        ("unavailable: weights are damaged", 503, "unavailable"),
        ("internal: out of memory", 500, "internal"),
        ("Traceback\nAbandonedJobError", 500, "abandoned"),
    ],
)
@pytest.mark.parametrize("accept", ["image/png", "application/json", "application/zip"])
def test_a_job_that_fails_says_why(api: httpx.Client, painter, accept: str, failure: str, status: int, slug: str) -> None:
    painter.failure = failure
    answer = api.post("/generate", json={"model": "toy"}, headers={"Accept": accept})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["type"] == f"urn:ebbtide:{slug}"
    assert failure.rpartition(": ")[2] in problem["detail"] or slug == "abandoned"
    assert api.get(problem["job"]).json()["problem"]["reason"] == slug


def test_a_job_canceled_meanwhile_answers_409(api: httpx.Client, painter, broker: Broker, eventually: Callable) -> None:
    painter.rest()
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(api.post("/generate", json={"model": "toy"})))
    waiting.start()
    job = eventually(broker.recent)[0]
    assert api.delete(f"/jobs/{job.id}").json()["status"] == "canceled"
    waiting.join(10)
    assert (answers[0].status_code, answers[0].json()["type"]) == (409, "urn:ebbtide:canceled")


def test_a_deadline_that_passes_in_the_queue_answers_504(api: httpx.Client, painter) -> None:
    painter.rest()
    answer = api.post("/generate", json={"model": "toy", "deadline_s": 0.05})
    assert (answer.status_code, answer.json()["type"]) == (504, "urn:ebbtide:expired")


def test_concurrent_requests_get_their_own_images(api: httpx.Client, painter) -> None:
    def ask(count: int, answers: dict[int, int]) -> None:
        answers[count] = width(api.post("/generate", json={"model": "toy", "num_images": count}).content)

    answers: dict[int, int] = {}
    threads = [threading.Thread(target=ask, args=(count, answers)) for count in range(1, 33)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert answers == {count: count for count in range(1, 33)}


def test_without_a_worker_only_respond_async_is_accepted(api: httpx.Client, painter) -> None:
    painter.rest()
    painter.disappear()
    refused = api.post("/generate", json={"model": "toy"})
    assert (refused.status_code, refused.json()["type"]) == (503, "urn:ebbtide:no-worker")
    assert int(refused.headers["retry-after"]) > 0
    assert api.post("/generate", json={"model": "toy"}, headers=ASYNC).status_code == 202
