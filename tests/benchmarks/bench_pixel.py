"""Chains on pixels against chains on latents, at equal numbers of network evaluations: time, quality, and how far chains get.

Both begin at the same images of the prior and run the kernels of the card. "moved" is one minus the correlation between the features of an
image before and after, so 0 is a chain that stands still and 1 one that has forgotten its start; "classes changed" is the share of chains
whose image the extractor puts into another class.

EBBTIDE_DEVICE, EBBTIDE_CHECKPOINTS and EBBTIDE_DATASETS say where.

python tests/benchmarks/bench_pixel.py [MODEL] [IMAGES]
"""

import sys
import time
from statistics import mean, stdev

from models import datasets
from models.checkpoints import Store
from models.kernels import Kernel
from models.metrics import neighbours
from models.metrics.base import Draws, Evaluator, Reference
from models.metrics.fid import distance
from models.training.evaluation import loaded
from models.training.judging import REFERENCE
from models.training.measurement import SEEDS, Subject, evaluations
from workers import computing
from workers.settings import WorkerSettings

SAMPLERS = ("pixel", "ddls")
BUDGETS = (20, 60, 200)  # evaluations a chain


def main() -> None:
    """Prints one table."""
    model, images = (*sys.argv[1:], *("mnist-ebgan", "500")[len(sys.argv) - 1 :])
    settings = WorkerSettings()
    device, store = computing.begin(settings), Store(settings.checkpoints)
    card = store.card(model)
    splits = datasets.load(card.training.dataset, settings.datasets)
    reference = Evaluator(splits.evaluator, card.training.dataset, device=device).against(splits.test.first(REFERENCE))
    subject = Subject.of(loaded(store, card, device), int(images))
    prior = [distance(subject.draws("prior", None, seed).images, reference) for seed in SEEDS]
    print(f"{model}, {images} images a seed: FID {mean(prior):.3f} ± {stdev(prior):.3f} of the prior")
    print(f"{'sampler':<8} {'kernel':<13} {'evaluations':>11} {'ms an image':>12} {'FID':>16}", end=" ")
    print(f"{'precision':>10} {'moved':>6} {'classes changed':>16}")
    for sampler in SAMPLERS:
        if kernel := card.samplers.get(sampler):
            once = evaluations(kernel.model_copy(update={"steps": 1}))
            for budget in BUDGETS:
                cut = kernel.model_copy(update={"steps": max(budget // once, 1)})
                print(measured(subject, sampler, cut, reference), flush=True)


def measured(subject: Subject, sampler: str, kernel: Kernel, reference: Reference) -> str:
    """One line."""
    rows, seconds = [], 0.0
    for seed in SEEDS:
        began = time.perf_counter()
        after = subject.draws(sampler, kernel, seed)
        seconds += time.perf_counter() - began
        before = Draws(subject.images_of(sampler, subject.points(sampler, seed)))
        precision = neighbours.measure(after, reference)["precision"]
        rows.append((distance(after.images, reference), precision, *progress(before, after, reference)))
    fids, precisions, moved, changed = zip(*rows, strict=True)
    each = 1000 * seconds / len(SEEDS) / subject.images
    return (
        f"{sampler:<8} {kernel.kernel:<13} {evaluations(kernel):>11} {each:>12.1f} {f'{mean(fids):.3f} ± {stdev(fids):.3f}':>16} "
        f"{mean(precisions):>10.3f} {mean(moved):>6.2f} {mean(changed):>16.2f}"
    )


def progress(before: Draws, after: Draws, reference: Reference) -> tuple[float, float]:
    """How far features went, and the share of chains in another class."""
    first, last = (draws.features(reference.extractor) for draws in (before, after))
    varying = (first.std(0) > 0) & (last.std(0) > 0)
    first, last = (features[:, varying] - features[:, varying].mean(0) for features in (first, last))
    correlation = (first * last).sum(0) / (first.square().sum(0) * last.square().sum(0)).sqrt()
    classes = [draws.log_probabilities(reference.extractor).argmax(1) for draws in (before, after)]
    return 1 - float(correlation.mean()), float((classes[0] != classes[1]).double().mean())


if __name__ == "__main__":
    main()
