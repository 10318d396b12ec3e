"""LEBM's training step against the paper's algorithm 1 written down plainly, on the same networks: CPU time of one thread."""

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor

from models import device
from models.families import family
from models.families.base import Size, TrainState
from models.families.lebm import POSTERIOR, PRIOR, Lebm

SIZE = Size(image_shape=(1, 28, 28), latent_size=32, width=64)
BATCH, ROUNDS = 64, 20


class Paper:
    """Algorithm 1 of Pang et al. 2020 (arXiv 2006.08205) as it is written, with autograd on the whole energy at every step."""

    def __init__(self, kind: Lebm, state: TrainState) -> None:
        self.sigma, self.state = kind.sigma, state
        self.generator = state.networks["generator"].to(memory_format=torch.contiguous_format)  # as torch builds it
        self.f = state.networks["f"]

    def langevin(self, z: Tensor, energy: Callable[[Tensor], Tensor], steps: int, step_size: float) -> Tensor:
        for _ in range(steps):
            z = z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(energy(z), z)
            z = z - 0.5 * step_size * gradient + step_size**0.5 * torch.randn_like(z)
        return z.detach()

    def step(self, images: Tensor) -> None:
        start = torch.randn(len(images), SIZE.latent_size)
        prior: Callable[[Tensor], Tensor] = lambda z: (-self.f(z) + 0.5 * z.square().sum(1)).sum()  # noqa: E731
        negative = self.langevin(start, prior, PRIOR.steps, PRIOR.step_size)

        def posterior(z: Tensor) -> Tensor:
            error = F.mse_loss(self.generator(z), images, reduction="sum") / (2 * self.sigma**2)
            return error + prior(z)

        positive = self.langevin(torch.randn(len(images), SIZE.latent_size), posterior, POSTERIOR.steps, POSTERIOR.step_size)
        generator, f = self.state.optimizers["generator"], self.state.optimizers["f"]
        generator.zero_grad()
        error = F.mse_loss(self.generator(positive), images, reduction="sum") / (2 * self.sigma**2 * len(images))
        error.backward()
        generator.step()
        f.zero_grad()
        (self.f(negative).mean() - self.f(positive).mean()).backward()
        f.step()


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of one step; other programs on the machine hardly change them."""
    began = time.process_time()
    call()
    return time.process_time() - began


def main() -> None:
    """In turns, so that both see the same machine; float32, and as the family trains where the CPU multiplies bfloat16 faster."""
    torch.set_num_threads(1)
    kind = family("lebm")
    assert isinstance(kind, Lebm)
    images, labels = torch.rand(BATCH, *SIZE.image_shape) * 2 - 1, torch.zeros(BATCH, dtype=torch.int64)
    ours, plain = kind.begin(SIZE, 1), Paper(kind, kind.begin(SIZE, 1))
    faster = device.multiplies_bfloat16_faster(torch.device("cpu"))
    for precise in (True, False) if faster else (True,):
        device.multiplies_bfloat16_faster = lambda where, precise=precise: not precise
        rounds = []
        for number in range(ROUNDS + 1):
            one, other = seconds(lambda: kind.train_step(ours, images, labels)), seconds(lambda: plain.step(images))
            if number:  # the first one warms up
                rounds.append((one, other))
        mine, theirs = (min(column) for column in zip(*rounds, strict=True))
        usual = median(one / other for one, other in rounds)
        name = "float32" if precise else "bfloat16"
        print(f"{name}: step {mine * 1e3:.1f} ms, paper's {theirs * 1e3:.1f} ms at best, ratio {mine / theirs:.3f}, median {usual:.3f}")


if __name__ == "__main__":
    main()
