"""An image comes with a job through broker, worker and engine, and its chains sample the latents that explain it."""

from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.checkpoints import Store
from tests.system.house import House, opened, until
from tests.tiny_models import publish_tiny
from workers.jobs import ClassData, GenerateJob, ImageData, JobView, Status
from workers.queue.artifacts import Artifacts
from workers.queue.broker import Broker

pytestmark = pytest.mark.system


@pytest.fixture
def house(valkey_url: str, redis: Any, tmp_path: Path) -> Iterator[House]:
    with opened(valkey_url, tmp_path / "checkpoints", tmp_path / "data") as house:
        yield house


@pytest.fixture
def explain(tmp_path: Path) -> Callable[..., GenerateJob]:
    """Makes a job of two posterior chains for an image, on a LEBM that was never trained."""
    card = publish_tiny(Store(tmp_path / "checkpoints"), "lebm", "tiny-lebm")
    langevin = {"kernel": "langevin", "steps": 300, "step_size": 0.01}
    named = {"model": card.name, "version": card.version, "digest": card.digest, "sampler": "posterior", "mcmc": langevin}
    return lambda data, seed=7: GenerateJob.model_validate(named | {"num_images": 2, "seed": seed, "data": data})


def noise(seed: int, shape: tuple[int, int, int] = (1, 8, 8)) -> ImageData:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    return ImageData(shape=shape, pixels=b64encode(pixels.tobytes()).decode())


def over(broker: Broker, ids: list[str]) -> list[JobView]:
    return [until(lambda job_id=job_id: (view := broker.view(job_id)).status.over and view) for job_id in ids]


def images(broker: Broker, job_id: str) -> list[bytes | None]:
    return [Artifacts.open("", broker.redis).get(job_id, f"{index}.png") for index in range(2)]


def test_images_that_share_a_batch_give_the_bytes_that_each_gives_alone(house, explain, broker):
    house.start_generation()
    jobs = [explain(noise(1)), explain(noise(2))]
    alone = []
    for job in jobs:
        (view,) = over(broker, [broker.submit(job)])
        assert view.status is Status.FINISHED, view.problem
        alone.append(images(broker, view.id))
    assert None not in sum(alone, [])
    together = over(broker, broker.submit_many(jobs))
    assert max(view.started_at for view in together) < min(view.ended_at for view in together)
    assert [images(broker, view.id) for view in together] == alone
    one, other = (view.result.chains for view in together)
    assert all(a.energy_first != b.energy_first for a, b in zip(one, other, strict=True))  # same latents to begin with, another image


def test_a_job_without_the_data_its_target_needs_fails_alone_and_says_why(house, explain, broker):
    house.start_generation()
    strange = [None, noise(1, (1, 4, 4)), noise(1, (3, 8, 8)), ClassData(labels=(3,))]
    good, *bad = over(broker, broker.submit_many([explain(noise(1)), *map(explain, strange)]))
    assert good.status is Status.FINISHED, good.problem
    assert [view.status for view in bad] == [Status.FAILED] * 4
    for view, words in zip(bad, ("image", r"(1, 4, 4)", r"(3, 8, 8)", "class"), strict=True):
        assert words in view.problem.detail
    assert house.workers() == 1
