"""No core idles: real processes that sample with all threads, give way to a training run, and take their cores back when it ends."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from tests.system.house import House, children, until
from workers.jobs import TrainJob

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

ENDLESS = TrainJob(name="toy", family="sngan", dataset="digits", steps=1_000_000, batch_size=8, width=8, latent_size=4, seed=1)
REQUEST = {"model": "tiny", "sampler": "ddls", "num_images": 8, "seed": 5, "mcmc": {"kernel": "mala", "steps": 200}}
TWO = {"EBBTIDE_THREADS": "2", "EBBTIDE_THREADS_BESIDE_TRAINING": "1", "OMP_NUM_THREADS": "2"}


def train(house: House) -> str:
    """A training job that has begun."""
    body = ENDLESS.model_dump(exclude={"kind", "caller", "tflop"})
    answer = house.client.post("/train", json=body)
    assert answer.status_code == 202, answer.text
    job_id: str = answer.headers["X-Ebbtide-Job"]
    until(lambda: house.job(job_id)["progress"])
    return job_id


def cancel(house: House, job_id: str, trainer: Any) -> None:
    assert house.client.delete(f"/jobs/{job_id}").status_code in (200, 202)
    until(lambda: house.job(job_id)["status"] == "canceled")


def kill_worker(house: House, job_id: str, trainer: Any) -> None:
    trainer.kill()


def kill_run(house: House, job_id: str, trainer: Any) -> None:
    """The run alone, so that its worker cannot begin it again."""
    os.kill(trainer.pid, signal.SIGSTOP)
    for run in children(trainer.pid):
        os.kill(run, signal.SIGKILL)


@pytest.mark.parametrize("end", [cancel, kill_worker, kill_run])
def test_sampling_gives_way_to_a_training_run_and_takes_its_cores_back(end: Callable, tiny_house: House) -> None:
    house = tiny_house
    sampler = house.start_generation(**TWO)

    def threads() -> float:
        return house.page(sampler)["ebbtide_engine_threads"]

    assert threads() == 2
    alone = house.client.post("/generate", json=REQUEST)
    assert alone.status_code == 200, alone.text
    trainer = house.start("workers.training")
    job_id = train(house)
    until(lambda: threads() == 1, limit_s=2)
    beside = house.client.post("/generate", json=REQUEST)
    assert beside.content == alone.content
    assert threads() == 1
    end(house, job_id, trainer)
    until(lambda: threads() == 2, limit_s=2)


@pytest.mark.parametrize("module", ["workers.generation", "workers.training"])
def test_a_device_that_is_not_here_is_said_before_any_job_is_taken(module: str, tiny_house: House, capfd: pytest.CaptureFixture) -> None:
    job_id = tiny_house.submit(**REQUEST)
    process = tiny_house.start(module, EBBTIDE_DEVICE="cuda:97")
    assert process.wait(60) == 1
    said = capfd.readouterr().err
    assert "EBBTIDE_DEVICE='cuda:97'" in said
    assert "choices: auto, cpu" in said
    assert "Traceback" not in said
    assert tiny_house.events(job_id) == ["queued"]
