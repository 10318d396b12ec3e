"""What a tick of the engine costs, as ratios in one run: to the bare energy-and-gradient call, to the loop people write, and to
torchebm's LangevinDynamics, which is installed into a folder that is thrown away.

python tests/benchmarks/bench_tick.py [threads]
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

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
    print(f"\n{'chains':>7} {'kernel':<28} {'torchebm / tick':>17} {'on our prepared networks':>25}")
    with tempfile.TemporaryDirectory() as folder:
        install_torchebm(folder)
        for chains in (8, 32, 64):
            lane = filled(prepared, chains, ("langevin",))
            theirs = [
                ratio(torchebm_step(networks, card, chains), lane.tick) for networks in (plain_networks(store, card), prepared.networks)
            ]
            print(f"{chains:>7} {'langevin':<28} {theirs[0]:>17.2f} {theirs[1]:>25.2f}")


def install_torchebm(folder: str) -> None:
    """Into a folder, without its torch: ours is of the version it asks for."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, "torchebm"]
    subprocess.run(pip, check=True)
    sys.path.append(folder)


def torchebm_step(networks: nn.ModuleDict, card: ModelCard, chains: int) -> Callable[[], object]:
    """A step of torchebm's sampler on the same target, as its documentation has it: a model and `sample`, here step by step."""
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    target = family(card.family).targets(networks)["ddls"]

    class Energy(BaseModel):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return target.energy(x)

    sampler = LangevinDynamics(Energy(), step_size=0.15, noise_scale=1.0)
    z = torch.randn(chains, card.latent_shape[0])

    def step() -> None:
        nonlocal z
        z = sampler.sample(z, n_steps=1)

    return step


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


def plain_networks(store: Store, card: ModelCard) -> nn.ModuleDict:
    """The networks as they were trained: BatchNorm unfolded, parameters requiring grad."""
    networks: nn.ModuleDict = family(card.family).build(Size.model_validate(card.networks)).eval()
    networks.load_state_dict(store.weights(card))
    return networks


def plain_loop(store: Store, card: ModelCard, chains: int) -> Callable[[], object]:
    """MALA as people write it, if they keep the gradient of the accepted point: `.backward()` and torch's own noise."""
    networks, epsilon = plain_networks(store, card), 0.3

    def energy_and_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        energy = 0.5 * z.square().sum(1) - networks["ratio"](networks["generator"](z))
        energy.sum().backward()
        assert z.grad is not None
        return energy.detach(), z.grad

    z = torch.randn(chains, card.latent_shape[0])
    energy, gradient = energy_and_gradient(z)

    def step() -> None:
        nonlocal z, energy, gradient
        proposal = z - 0.5 * epsilon * gradient + epsilon**0.5 * torch.randn_like(z)
        there, slope = energy_and_gradient(proposal)
        forth = (proposal - z + 0.5 * epsilon * gradient).square().sum(1) / (2 * epsilon)
        back = (z - proposal + 0.5 * epsilon * slope).square().sum(1) / (2 * epsilon)
        accepted = torch.rand(chains).log() < energy - there + forth - back
        rows = accepted.unsqueeze(1)
        z, gradient, energy = torch.where(rows, proposal, z), torch.where(rows, slope, gradient), torch.where(accepted, there, energy)

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
