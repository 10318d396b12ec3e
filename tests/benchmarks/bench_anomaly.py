"""Held-out-class anomaly detection: for each class left out, a model learns the nine others and scores the test images of all ten.

Protocol, after Zenati et al. 2018 as Pang et al. 2020 use it: training and choice of weights see images of nine classes alone; the score of
an image is the unnormalised -log p(x, z) at latents inferred for it (`Family.anomaly`); images of the class left out are the positives;
AUPRC is the mean over three seeds of the inference. MNIST here is 3,000 training images without one class and 1,000 test images, where the
papers have 60,000 and 10,000.

EBBTIDE_DEVICE and EBBTIDE_DATASETS say where.

python tests/benchmarks/bench_anomaly.py [DATASET] [STEPS] [FAMILY ...]
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

from models import datasets
from models.checkpoints import Store
from models.training.evaluation import EvaluationSettings, evaluate
from workers import computing
from workers.settings import WorkerSettings

if TYPE_CHECKING:
    import torch

CLASSES = (1, 4, 5, 7, 9)
PAPER = {"lebm": (0.336, 0.630, 0.619, 0.463, 0.413), "vae": (0.063, 0.337, 0.325, 0.148, 0.104)}  # Pang et al. 2020, table 4
SETTINGS = ("--batch-size", "100", "--width", "96", "--latent-size", "32", "--seed", "0")
IMAGES = 5000  # test images scored, at most


def main() -> None:
    """Trains into a folder that is thrown away; prints one table."""
    dataset, steps, *families = (*sys.argv[1:], *("mnist", "1000", "lebm", "vae")[len(sys.argv) - 1 :])
    settings = WorkerSettings()
    device = computing.begin(settings)
    print(f"{'family':<8}" + "".join(f"{label:>16}" for label in CLASSES) + f"{'mean':>8}")
    with tempfile.TemporaryDirectory() as folder:
        for family in families:
            found = [auprc(family, f"{dataset}:without-{label}", steps, settings, Path(folder), device) for label in CLASSES]
            cells = "".join(f"{f'{value:.3f} ± {spread:.3f}':>16}" for value, spread in found)
            print(f"{family:<8}{cells}{mean(value for value, _ in found):>8.3f}", flush=True)
    if dataset == "mnist":
        for family, values in PAPER.items():
            print(f"{family + ' *':<8}" + "".join(f"{value:>16.3f}" for value in values) + f"{mean(values):>8.3f}")
        print("* Pang et al. 2020, on all of MNIST")


def auprc(family: str, dataset: str, steps: str, given: WorkerSettings, folder: Path, device: "torch.device") -> tuple[float, float]:
    """Mean and spread over seeds of one model."""
    name = f"{family}-{dataset.replace(':', '-')}"
    command = [sys.executable, "-m", "workers.training", "--name", name, "--family", family, "--dataset", dataset, "--steps", steps]
    subprocess.run([*command, *SETTINGS, "--checkpoints", str(folder)], check=True, stdout=subprocess.DEVNULL)
    store = Store(folder)
    settings = EvaluationSettings(samplers=(), images=IMAGES)
    splits = datasets.load(dataset, given.datasets)
    found = evaluate(store, store.card(name), splits, settings, device=device, report=lambda row: None).metrics
    (row,) = [metric for metric in found if metric.name == "auprc"]
    return row.value, row.spread or 0.0


if __name__ == "__main__":
    main()
