"""What a tick of the engine costs, as ratios in one run: to the bare energy-and-gradient call, to the loop people write, and to
torchebm's LangevinDynamics, which is installed into a folder that is thrown away.

Tick and bare call share a process, with the allocator as the worker sets it. A rival has a process of its own with the allocator as it
comes, and so has the tick it is compared to, with the worker's; both are stepped in turn, on the same cores, or one that shares its core
with others seems slower by a quarter. Given our prepared networks, the rival is given our allocator too: what is left is what the sampler
itself costs.

EBBTIDE_DEVICE says where, the CPU unless it is given; torchebm is compared on the CPU alone.

python tests/benchmarks/bench_tick.py [threads]
"""

import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor, nn

from models import device
from models.cards import ModelCard
from models.checkpoints import Store
from models.families import family
from models.families.base import Size
from models.inference.prepared import Prepared, load
from models.targets.base import evaluate
from tests.workers.engine.engines import measured_lane
from workers.engine.allocator import keep_freed
from workers.engine.chains import Chain
from workers.engine.lane import Lane
from workers.jobs import GenerateJob

ROUNDS = 60
WHERE = device.resolve(os.environ.get("EBBTIDE_DEVICE", "cpu"))
Step = Callable[[], object]


def main() -> None:
    """Prints one table."""
    keep_freed()
    device.settle(WHERE, int(sys.argv[1]) if len(sys.argv) > 1 else 2)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: torch.get_num_threads()])
    prepared = shipped()
    print(f"mnist-sngan, ddls, {device.name_of(WHERE)}, {torch.get_num_threads()} threads, medians of {ROUNDS} alternating pairs")
    print(f"{'chains':>7} {'kernels':<28} {'tick / bare call':>17} {'plain loop / tick':>18}")
    for chains, kernels in ((8, ("mala",)), (32, ("mala",)), (64, ("mala",)), (32, ("mala", "langevin", "hmc"))):
        z = torch.randn(chains, *prepared.card.latent_shape, device=WHERE)
        tick, bare = filled(prepared, chains, kernels).tick, partial(evaluate, prepared.targets["ddls"], z)
        within = ratio(partial(seconds, tick), partial(seconds, bare))
        plain = compared(partial(plain_loop, chains), partial(our_tick, chains, kernels))
        print(f"{chains:>7} {', '.join(kernels):<28} {within:>17.3f} {plain:>18.2f}", flush=True)
    if not device.is_cpu(WHERE):
        return
    print(f"\n{'chains':>7} {'kernel':<28} {'torchebm / tick':>17} {'on our prepared networks':>25}")
    with tempfile.TemporaryDirectory() as folder:
        install_torchebm(folder)
        for chains in (8, 32, 64):
            tick = partial(our_tick, chains, ("langevin",))
            theirs = [compared(partial(torchebm_step, folder, chains, prepared=ours), tick, keeping=ours) for ours in (False, True)]
            print(f"{chains:>7} {'langevin':<28} {theirs[0]:>17.2f} {theirs[1]:>25.2f}", flush=True)


def compared(rival: Callable[[], Step], ours: Callable[[], Step], *, keeping: bool = False) -> float:
    """A rival's seconds a step to those of ours; `keeping` gives it our allocator."""
    with Stepped(rival, keeping=keeping) as one, Stepped(ours, keeping=True) as other:
        return ratio(one.seconds, other.seconds)


class Stepped:
    """What `make` returns, in a process of its own that makes a step when asked."""

    def __init__(self, make: Callable[[], Step], *, keeping: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=steps_when_asked, args=(theirs, make, torch.get_num_threads(), keeping), daemon=True)

    def __enter__(self) -> "Stepped":
        self._process.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        self._process.join()

    def seconds(self) -> float:
        """What the next step takes."""
        self._pipe.send(None)
        took: float = self._pipe.recv()
        return took


def steps_when_asked(pipe: Connection, make: Callable[[], Step], threads: int, keeping: bool) -> None:
    """What such a process does."""
    if keeping:
        keep_freed()
    device.settle(WHERE, threads)
    step = make()
    while True:
        pipe.recv()
        pipe.send(seconds(step))


def shipped() -> Prepared:
    store = Store(Path("nowhere"))
    return load(store, store.card("mnist-sngan"), WHERE)


def our_tick(chains: int, kernels: tuple[str, ...]) -> Step:
    return filled(shipped(), chains, kernels).tick


def install_torchebm(folder: str) -> None:
    """Into a folder, without its torch: ours is of the version it asks for."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", folder, "torchebm"]
    subprocess.run(pip, check=True)


def torchebm_step(folder: str, chains: int, *, prepared: bool) -> Step:
    """A step of torchebm's sampler on the same target, as its documentation has it: a model and `sample`, here step by step."""
    sys.path.append(folder)
    from torchebm.core import BaseModel
    from torchebm.samplers import LangevinDynamics

    card, networks = (shipped().card, shipped().networks) if prepared else plain_networks()
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
    lane = measured_lane(prepared, "ddls", chains)
    for number in range(chains):
        mcmc = {"kernel": kernels[number % len(kernels)], "steps": 10_000}
        kernel = GenerateJob.model_validate(
            {"model": "m", "version": 1, "digest": "0" * 64, "sampler": "ddls", "mcmc": mcmc, "num_images": 1, "seed": number}
        ).mcmc
        assert kernel is not None
        lane.start([Chain(str(number), 0, number, kernel)])
    lane.tick()
    return lane


def plain_networks() -> tuple[ModelCard, nn.ModuleDict]:
    """The networks as they were trained: BatchNorm unfolded, parameters requiring grad."""
    store = Store(Path("nowhere"))
    card = store.card("mnist-sngan")
    networks: nn.ModuleDict = family(card.family).build(Size.model_validate(card.networks)).eval()
    networks.load_state_dict(store.weights(card))
    return card, networks.to(WHERE)


def plain_loop(chains: int) -> Step:
    """MALA as people write it, if they keep the gradient of the accepted point: `.backward()` and torch's own noise."""
    (card, networks), epsilon = plain_networks(), 0.3

    def energy_and_gradient(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        energy = 0.5 * z.square().sum(1) - networks["ratio"](networks["generator"](z))
        energy.sum().backward()
        assert z.grad is not None
        return energy.detach(), z.grad

    z = torch.randn(chains, card.latent_shape[0], device=WHERE)
    energy, gradient = energy_and_gradient(z)

    def step() -> None:
        nonlocal z, energy, gradient
        proposal = z - 0.5 * epsilon * gradient + epsilon**0.5 * torch.randn_like(z)
        there, slope = energy_and_gradient(proposal)
        forth = (proposal - z + 0.5 * epsilon * gradient).square().sum(1) / (2 * epsilon)
        back = (z - proposal + 0.5 * epsilon * slope).square().sum(1) / (2 * epsilon)
        accepted = torch.rand(chains, device=WHERE).log() < energy - there + forth - back
        rows = accepted.unsqueeze(1)
        z, gradient, energy = torch.where(rows, proposal, z), torch.where(rows, slope, gradient), torch.where(accepted, there, energy)

    return step


def ratio(one: Callable[[], float], other: Callable[[], float]) -> float:
    """Median of the pairwise ratios of their seconds, taken in turn."""
    for _ in range(5):
        one(), other()
    return statistics.median(one() / other() for _ in range(ROUNDS))


def seconds(act: Step) -> float:
    started = time.perf_counter()
    act()
    device.wait_for(WHERE)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
