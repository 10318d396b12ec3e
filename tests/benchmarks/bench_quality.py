"""Evaluations to equal quality: energy-and-gradient calls a chain needs until its images' FID is within 2 % of exact reweighting.

Exact reweighting resamples prior images by exp(d), with no chain. Every kernel runs at several step sizes from the same latents, and so
does the sampler of the DDLS paper: Langevin with ε = 0.01. FID is in the first extractor against `test`, the mean over seeds 0, 1 and 2.
A local-global step counts its ten proposals.

EBBTIDE_DEVICE, EBBTIDE_CHECKPOINTS and EBBTIDE_DATASETS say where.

python tests/benchmarks/bench_quality.py [MODEL] [IMAGES]
"""

import sys
from collections.abc import Iterator
from statistics import mean, stdev

import torch
from torch import Tensor

from models import datasets
from models.checkpoints import Store
from models.kernels import KERNELS, Kernel
from models.kernels.langevin import Langevin
from models.metrics.base import Evaluator, Reference
from models.metrics.fid import distance
from models.training.evaluation import Oracle, loaded
from models.training.judging import REFERENCE
from models.training.measurement import SEEDS, Subject, evaluations
from workers import computing
from workers.settings import WorkerSettings

SAMPLER = "ddls"
SIZES = (0.1, 0.3, 1.0)
PAPER = Langevin(steps=1000, step_size=0.01)
SHORT = 160  # evaluations that our kernels may take
NEAR = 1.02
POOL = 4


def main() -> None:
    """Prints one table; the last column is what the paper's sampler takes over what the row takes."""
    model, images = (*sys.argv[1:], *("mnist-sngan", "1000")[len(sys.argv) - 1 :])
    settings = WorkerSettings()
    device, store = computing.begin(settings), Store(settings.checkpoints)
    card = store.card(model)
    splits = datasets.load(card.training.dataset, settings.datasets)
    reference = Evaluator(splits.evaluator, card.training.dataset, device=device).against(splits.test.first(REFERENCE))
    trained = loaded(store, card, device)
    subject, oracle = Subject.of(trained, int(images)), Oracle(Subject.of(trained, POOL * int(images)), int(images))
    exact = [distance(oracle.reweighted(SAMPLER, seed).images, reference) for seed in SEEDS]
    prior = [distance(subject.draws("prior", None, seed).images, reference) for seed in SEEDS]
    print(f"{model}, {images} images a seed: FID {shown(prior)} prior, {shown(exact)} by exact reweighting", flush=True)
    print(f"{'kernel':<14} {'ε':>5} {'evaluations':>12} {'FID then':>16} {'FID at the end':>16} {'ULA / this':>11}")
    slowest: float | None = None
    for kernel in (PAPER, *ours()):
        counts, fids = course(subject, kernel, reference)
        reached = next((place for place, values in enumerate(fids) if mean(values) <= NEAR * mean(exact)), None)
        if kernel is PAPER:
            slowest = counts[-1] if reached is None else counts[reached]
        print(row(kernel, counts, fids, reached, slowest), flush=True)


def ours() -> Iterator[Kernel]:
    """Every kernel at each step size, as long as it may be."""
    for kind in KERNELS.values():
        for size in SIZES:
            kernel = kind(step_size=size, steps=1)
            yield kernel.model_copy(update={"steps": max(SHORT // evaluations(kernel), 1)})


def course(subject: Subject, kernel: Kernel, reference: Reference) -> tuple[list[int], list[list[float]]]:
    """Evaluations, and FID of each seed after as many: at about ten places an order of magnitude."""
    steps = sorted({min(round(10 ** (exponent / 10)), kernel.steps) for exponent in range(41)})
    found: dict[int, list[float]] = {}
    for seed in SEEDS:
        passed: dict[int, list[Tensor]] = subject.passed(SAMPLER, kernel, seed, steps)
        for count, points in passed.items():
            found.setdefault(count, []).append(distance(subject.images_of(SAMPLER, torch.cat(points)), reference))
    return [evaluations(kernel.model_copy(update={"steps": count})) + 1 for count in found], list(found.values())


def row(kernel: Kernel, counts: list[int], fids: list[list[float]], reached: int | None, slowest: float | None) -> str:
    """One line; the start counts as an evaluation."""
    size = getattr(kernel, "step_size")  # noqa: B009
    if reached is None:
        return f"{kernel.kernel:<14} {size:>5} {f'> {counts[-1]}':>12} {'':>16} {shown(fids[-1]):>16}"
    ratio = f"{slowest / counts[reached]:.1f}" if slowest else ""
    return f"{kernel.kernel:<14} {size:>5} {counts[reached]:>12} {shown(fids[reached]):>16} {shown(fids[-1]):>16} {ratio:>11}"


def shown(values: list[float]) -> str:
    """Mean and standard deviation."""
    return f"{mean(values):.3f} ± {stdev(values):.3f}"


if __name__ == "__main__":
    main()
