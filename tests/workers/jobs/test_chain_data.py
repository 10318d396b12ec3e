"""What a job brings for its chains: checked before the queue, exact on the way, and absent from the bytes of jobs that bring nothing."""

from base64 import b64encode

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from models.images import to_pixels
from workers.generation.encoding import provenance
from workers.jobs import ClassData, Contract, Diagnostics, GenerateJob, ImageData

EVERY_VALUE = bytes(range(256))


def image(shape=(1, 16, 16), content=EVERY_VALUE):
    return ImageData(shape=shape, pixels=b64encode(content).decode())


def test_an_image_becomes_what_rounds_to_the_same_pixels():
    array = image((2, 8, 16)).array()
    assert (array.dtype, array.shape) == (np.float32, (2, 8, 16))
    assert (array.min(), array.max()) == (-1, 1)
    pixels = to_pixels(torch.from_numpy(array)[None])  # (1, height, width, channels)
    assert pixels[0].transpose(2, 0, 1).tobytes() == EVERY_VALUE


def test_classes_become_numbers_and_take_turns():
    data = ClassData(labels=(7, 0, 3))
    assert (data.array().dtype, data.array().tolist()) == (np.int64, [7, 0, 3])
    assert [data.label_of(image) for image in range(5)] == [7, 0, 3, 7, 0]


def test_classes_that_nobody_chose_are_uniform_and_a_function_of_seed_and_image():
    labels = np.array([ClassData.drawn(seed, 256, 10).labels for seed in range(20)]).flatten()
    expected = len(labels) / 10
    assert (abs(np.bincount(labels, minlength=10) - expected) < 4 * np.sqrt(expected * 0.9)).all()
    assert ClassData.drawn(7, 3, 10).labels == ClassData.drawn(7, 256, 10).labels[:3] == (4, 6, 9)
    assert ClassData.drawn(8, 256, 10) != ClassData.drawn(7, 256, 10)


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValidationError, match=r"pixels hold 256 bytes where shape \(1, 8, 8\) needs 64"):
        image((1, 8, 8))
    with pytest.raises(ValidationError, match="pixels must be base64"):
        ImageData(shape=(1, 1, 1), pixels="?")
    with pytest.raises(ValidationError, match="greater than 0"):
        image((0, 8, 8), b"")
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        ClassData(labels=(-1,))


@pytest.mark.parametrize("data", [image(), ClassData(labels=(3,))], ids=["image", "class"])
def test_a_job_keeps_its_data_on_the_wire(generate_job, broker, data):
    job = generate_job(data=data)
    assert GenerateJob.model_validate_json(job.model_dump_json()) == job
    assert broker.view(broker.submit(job)).job == job


def test_a_job_without_data_says_nothing_of_it(generate_job):
    job = generate_job()
    assert "data" not in job.model_dump()
    assert '"data"' not in job.model_dump_json()
    contract = Contract(device="cpu", instructions=None, torch="2", sampling_reference=None, decoding_reference=1)
    assert '"data"' not in provenance(job, Diagnostics(exact=None, effective_temperature=1), contract)["ebbtide"]


def test_any_well_formed_name_of_a_sampler_is_taken(generate_job):
    assert generate_job(sampler="posterior").sampler == "posterior"
    with pytest.raises(ValidationError, match="should match pattern"):
        generate_job(sampler="os.system")
