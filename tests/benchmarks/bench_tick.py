"""What a tick of the engine costs, as ratios in one run: to the bare energy-and-gradient call, and to the loop people write.

python tests/benchmarks/bench_tick.py [threads]
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from models.cards import ModelCard
from models.checkpoints import Store
from models.families import family
from models.families.base import Size
from models.prepared import Prepared, load
from models.targets import evaluate
from workers.chain_group import Chain
from workers.jobs import GenerateJob
from workers.lane import Lane

ROUNDS = 60


def main() -> None:
    """Prints one table."""
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    store = Store(Path(tempfile.mkdtemp()))
    card = store.card("mnist-sngan")
    prepared = load(store, card, torch.device("cpu"))
    print(f"mnist-sngan, ddls, {torch.get_num_threads()} threads, medians of {ROUNDS} alternating pairs")
    print(f"{'chains':>7} {'kernels':<28} {'tick / bare call':>17} {'plain loop / tick':>18}")
    for chains, kernels in ((8, ("mala",)), (32, ("mala",)), (64, ("mala",)), (32, ("mala", "langevin", "hmc"))):
        lane = filled(prepared, chains, kernels)
        z = torch.randn(chains, prepared.latent)
        bare = ratio(lane.tick, lambda z=z: evaluate(prepared.targets["ddls"], z))
        plain = ratio(plain_loop(store, card, chains), lane.tick)
        print(f"{chains:>7} {', '.join(kernels):<28} {bare:>17.3f} {plain:>18.2f}")


def filled(prepared: Prepared, chains: int, kernels: tuple[str, ...]) -> Lane:
    """A lane with chains that outlast the measurement, the kernels taking turns."""
    lane = Lane(prepared, prepared.targets["ddls"], chains, torch.device("cpu"))
    for number in range(chains):
        mcmc = {"kernel": kernels[number % len(kernels)], "steps": 10_000}
        kernel = GenerateJob.model_validate(
            {"model": "m", "version": 1, "digest": "0" * 64, "sampler": "ddls", "mcmc": mcmc, "num_images": 1, "seed": number}
        ).mcmc
        assert kernel is not None
        lane.start([Chain(str(number), 0, number, kernel)])
    lane.tick()
    return lane


def plain_loop(store: Store, card: ModelCard, chains: int) -> Callable[[], object]:
    """One MALA-sized step as people write it: parameters requiring grad, `.backward()`, BatchNorm unfolded, torch's own noise."""
    networks = family(card.family).build(Size.model_validate(card.networks)).eval()
    networks.load_state_dict(store.weights(card))
    z = torch.randn(chains, card.latent_shape[0])

    def step() -> None:
        nonlocal z
        z = z.detach().requires_grad_()
        energy = 0.5 * z.square().sum(1) - networks["ratio"](networks["generator"](z))
        energy.sum().backward()
        assert z.grad is not None
        z = z - 0.15 * z.grad + 0.3**0.5 * torch.randn_like(z)

    return step


def ratio(one: Callable[[], object], other: Callable[[], object]) -> float:
    """Median of the pairwise ratios of their times, taken in turn."""
    for _ in range(5):
        one(), other()
    return statistics.median(seconds(one) / seconds(other) for _ in range(ROUNDS))


def seconds(act: Callable[[], object]) -> float:
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
