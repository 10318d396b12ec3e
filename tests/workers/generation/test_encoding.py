"""What a PNG carries: all that made it, and nothing that did not."""

import json

import numpy as np
import pytest

from models.images import grid, read_text
from workers.generation.encoding import encode, provenance
from workers.jobs import ClassData, Contract, Diagnostics, GenerateJob

IMAGES = np.arange(3 * 8 * 8, dtype=np.uint8).reshape(3, 8, 8, 1)
TOLD = Diagnostics(exact=True, effective_temperature=1.0, acceptance=0.5)
PROMISED = Contract(device="cpu", instructions="AVX2", torch="2.13.0", sampling_reference=64, decoding_reference=64)


def test_the_request_inside_a_png_is_the_request(generate_job):
    job = generate_job(num_images=3, seed=2**62 + 1, version=4)
    text = read_text(encode(job, IMAGES, TOLD, PROMISED)["2.png"])
    assert GenerateJob.model_validate_json(text["ebbtide"]) == job
    assert (text["seed"], text["digest"], text["image"]) == (str(2**62 + 1), "0" * 64, "2")
    assert Diagnostics.model_validate_json(text["diagnostics"]) == TOLD
    assert Contract.model_validate_json(text["contract"]) == PROMISED
    assert text["software"].startswith("ebbtide ")


def test_each_image_names_its_class_and_a_grid_has_none(generate_job):
    files = encode(generate_job(data=ClassData(labels=(7, 2))), IMAGES, TOLD, PROMISED)
    assert [read_text(files[f"{index}.png"])["class"] for index in range(3)] == ["7", "2", "7"]
    assert "class" not in read_text(files["grid.png"])
    assert "class" not in read_text(encode(generate_job(), IMAGES, TOLD, PROMISED)["0.png"])


@pytest.mark.parametrize("change", [{"priority": "high"}, {"deadline_s": 3.5}])
def test_urgency_leaves_no_trace_in_the_bytes(change, generate_job):
    assert encode(generate_job(**change), IMAGES, TOLD, PROMISED) == encode(generate_job(), IMAGES, TOLD, PROMISED)


@pytest.mark.parametrize("change", [{"seed": 8}, {"digest": "1" * 64}, {"mcmc": {"kernel": "mala", "steps": 6}}, {"num_images": 5}])
def test_everything_else_does(change, generate_job):
    assert encode(generate_job(**change), IMAGES, TOLD, PROMISED)["0.png"] != encode(generate_job(), IMAGES, TOLD, PROMISED)["0.png"]


@pytest.mark.parametrize("change", [{"device": "NVIDIA H200"}, {"torch": "2.14.0"}, {"sampling_reference": 16}])
def test_what_may_change_the_bytes_is_found_in_the_one_chunk_that_differs(change, generate_job):
    here, there = (read_text(encode(generate_job(), IMAGES, TOLD, one)["0.png"]) for one in (PROMISED, PROMISED.model_copy(update=change)))
    assert [key for key in here if here[key] != there[key]] == ["contract"]


@pytest.mark.parametrize("chunk", ["ebbtide", "diagnostics", "contract"])
def test_text_is_canonical(generate_job, chunk):
    text = provenance(generate_job(), TOLD, PROMISED)[chunk]
    assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"))


def test_a_grid_is_made_of_several_images_when_asked_for(generate_job):
    from PIL import Image

    assert list(encode(generate_job(), IMAGES, TOLD, PROMISED)) == ["0.png", "1.png", "2.png", "grid.png"]
    assert list(encode(generate_job(layout="images"), IMAGES, TOLD, PROMISED)) == ["0.png", "1.png", "2.png"]
    assert list(encode(generate_job(num_images=1), IMAGES[:1], TOLD, PROMISED)) == ["0.png"]
    import io

    sheet = np.asarray(Image.open(io.BytesIO(encode(generate_job(), IMAGES, TOLD, PROMISED)["grid.png"])))
    assert (sheet == grid(IMAGES).squeeze(-1)).all()


@pytest.mark.parametrize("energy", [0.0, -0.0])
def test_diagnostics_are_the_jobs_own_though_they_equal_anothers(energy, generate_job):
    for told in (0.0, energy):  # which are equal, and written differently
        read = read_text(encode(generate_job(), IMAGES, TOLD.model_copy(update={"energy_last": told}), PROMISED)["0.png"])
    assert f'"energy_last":{energy}' in read["diagnostics"]
