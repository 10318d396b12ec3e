"""What must hold on a GPU: the same bytes in any company, exact kernels, training that repeats. Skipped where torch sees none."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from models import device
from models.checkpoints import Store
from models.kernels import KERNELS
from tests.models.closed_forms import assert_gaussian, ran
from tests.models.test_closed_forms import EXACT, NARROW, settled
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob
from workers.messages import Finished

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]

ROOT = Path(__file__).parents[2]
STEPS = 12
TRAINED = ("sngan", "lebm")


@pytest.fixture(autouse=True)
def gpu() -> Iterator[torch.device]:
    """The first GPU, with this process set up for it; operations without a deterministic algorithm fail, since warnings are errors."""
    found = device.resolve("cuda")
    threads = torch.get_num_threads()
    device.settle(found, threads)
    yield found
    torch.use_deterministic_algorithms(False)


def job(model: str, kernel: str, seed: int, images: int = 3) -> GenerateJob:
    card = Store(Path("nowhere")).card(model)
    about = {"model": model, "version": card.version, "digest": card.digest, "sampler": card.default_sampler}
    return GenerateJob.model_validate(about | {"mcmc": {"kernel": kernel, "steps": STEPS}, "num_images": images, "seed": seed})


def pixels(gpu: torch.device, jobs: dict[str, GenerateJob]) -> dict[str, bytes]:
    """What each job gives where all run together."""
    engine = Engine(Store(Path("nowhere")), EngineSettings(device=str(gpu)), lambda event: None)
    for label, wanted in jobs.items():
        engine.admit(label, wanted, None)
    ended = {}
    while engine.busy:
        for outcome in engine.tick():
            assert isinstance(outcome, Finished), outcome
            ended[outcome.job_id] = outcome.pixels
    return ended


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("model", ["mnist-sngan", "mnist-lebm", "digits-sngan"])
def test_a_request_gives_the_same_bytes_in_any_company(model: str, kernel: str, gpu: torch.device) -> None:
    alone = pixels(gpu, {"wanted": job(model, kernel, 1)})
    company = {str(seed): job(model, other, seed, images=seed % 7 + 1) for seed in range(2, 9) for other in KERNELS}
    assert pixels(gpu, company | {"wanted": job(model, kernel, 1)})["wanted"] == alone["wanted"]


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_an_exact_kernel_is_exactly_its_target(name: str, temperature: float, gpu: torch.device) -> None:
    row = settled(name, NARROW, temperature=temperature)
    assert_gaussian(ran(row, device=gpu).chains.z, row.answer)


@pytest.mark.parametrize("family", TRAINED)
def test_a_training_run_repeats(family: str, tmp_path: Path) -> None:
    digests = set()
    for folder in (tmp_path / "one", tmp_path / "two"):
        settings = ("--dataset", "digits", "--steps", "20", "--width", "8", "--batch-size", "8", "--latent-size", "8")
        command = [sys.executable, "-m", "workers.training", "--name", "tiny", "--family", family, *settings]
        env = os.environ | {"EBBTIDE_DATA": str(folder), "EBBTIDE_DEVICE": "cuda"}
        subprocess.run(command, env=env, cwd=ROOT, check=True, timeout=240, stdout=subprocess.DEVNULL)
        digests.add(Store(folder / "checkpoints").card("tiny").digest)
    assert len(digests) == 1
