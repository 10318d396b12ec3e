"""A client that openapi-python-client generates from the description works on its first call."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from PIL import Image

from service.app import create_app
from service.settings import Settings

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("generated")
    (folder / "openapi.json").write_text(json.dumps(create_app(Settings()).openapi()))
    command = [
        "generate",
        "--path",
        str(folder / "openapi.json"),
        "--meta",
        "none",
        "--output-path",
        str(folder / "ebbtide_generated"),
        "--fail-on-warning",
    ]
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    made = subprocess.run([BIN / "openapi-python-client", *command], env=env, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stdout + made.stderr
    sys.path.insert(0, str(folder))
    yield importlib.import_module("ebbtide_generated")
    sys.path.remove(str(folder))


@pytest.fixture
def caller(generated: ModuleType, address: str) -> Iterator[Any]:
    with generated.Client(base_url=address) as caller:
        yield caller


def part(name: str) -> ModuleType:
    return importlib.import_module(f"ebbtide_generated.api.{name}")


def models() -> ModuleType:
    return importlib.import_module("ebbtide_generated.models")


def test_its_first_call_gives_a_picture(caller: Any, painter) -> None:
    file = part("generate.generate_generate_post").sync(client=caller, body=models().GenerateRequest(model="toy", num_images=4))
    assert Image.open(file.payload).format == "PNG"


def test_it_follows_a_job_to_its_images(caller: Any, painter) -> None:
    mala = models().Mala(steps=5)
    asked = models().GenerateRequest(model="toy", mcmc=mala, seed=2**62 + 1, num_images=2)
    job = part("generate.generate_generate_post").sync(client=caller, body=asked, prefer="respond-async")
    while job.status not in (models().Status.FINISHED, models().Status.FAILED):
        job = part("jobs.job_jobs_job_id_get").sync(job.id, client=caller)
    assert (job.job.seed, job.job.mcmc.steps, len(job.links.images)) == (2**62 + 1, 5, 2)
    file = part("jobs.image_jobs_job_id_images_index_get").sync(job.id, 1, client=caller)
    assert Image.open(file.payload).format == "PNG"


def test_it_reads_cards_trains_and_understands_refusals(caller: Any, painter) -> None:
    card = part("models.model_models_reference_get").sync("toy@1", client=caller)
    assert (card.name, card.version, card.samplers.additional_properties["prior"]) == ("toy", 1, None)
    asked = models().TrainRequest(name="generated", family=models().TrainRequestFamily.SNGAN, dataset="digits", steps=2)
    assert part("train.train_train_post").sync(client=caller, body=asked).job.steps == 2
    refused = part("generate.generate_generate_post").sync(client=caller, body=models().GenerateRequest(model="nobody"))
    assert (refused.type_, refused.errors[0].field) == ("urn:ebbtide:invalid-request", "model")


def test_bytes_are_called_so_where_only_that_is_accepted(api: httpx.Client, painter) -> None:
    octets = {"Accept": "application/octet-stream"}
    answer = api.post("/generate", json={"model": "toy"}, headers=octets)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert Image.open(BytesIO(answer.content)).format == "PNG"
    link = answer.headers["content-location"]
    for path in (link, "/models/toy@2/samples.png"):
        assert api.get(path, headers=octets).headers["content-type"] == "application/octet-stream"
        assert api.get(path, headers={"Accept": "image/*;q=0.1, */*"}).headers["content-type"] == "application/octet-stream"
        for accept in ("*/*", "image/png", "text/html"):
            assert api.get(path, headers={"Accept": accept}).headers["content-type"] == "image/png"
    several = api.post("/generate", json={"model": "toy", "num_images": 2, "layout": "images"}, headers=octets)
    assert (several.headers["content-type"], several.content[:2]) == ("application/octet-stream", b"PK")
