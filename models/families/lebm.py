"""LEBM: a latent energy-based prior p(z) ∝ exp(f(z)) N(0, I) under a generator x = g(z) + σe.

Algorithm 1 of Pang et al. 2020 (arXiv 2006.08205): short-run Langevin from fresh N(0, I) latents draws from the prior and the
posterior at every step; then f ascends E_posterior f - E_prior f, and g descends |x - g(z)|²/2σ² at the posterior's draws.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.cards import SamplerName
from models.families.base import Size, TrainState, check_finite, descend
from models.kernels import Kernel
from models.kernels.langevin import Langevin
from models.networks.bfloat16 import Bfloat16
from models.networks.dcgan import Generator
from models.networks.latent_mlp import LatentMlp
from models.sampling import run
from models.targets.base import Target
from models.targets.latent_ebm import LatentEbm
from models.targets.posterior import Posterior

SIGMA = 0.3
PRIOR = Langevin(steps=60, step_size=0.16)  # the paper's s = 0.4: ε = s²
POSTERIOR = Langevin(steps=20, step_size=0.01)  # s = 0.1


class Lebm:
    """`prior` draws from N(0, I), for comparison; `latent-ebm` from the learned prior."""

    default_sampler: ClassVar[SamplerName] = "latent-ebm"
    preview_sampler: ClassVar[SamplerName] = "latent-ebm"
    description: ClassVar[str] = "Generator with a latent energy-based prior"

    def build(self, size: Size) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "generator": Generator(size.latent_size, size.width, size.image_shape),
                "f": LatentMlp(size.latent_size, 200),
            }
        )

    def begin(self, size: Size, seed: int) -> TrainState:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self.build(size)
        rates = {"generator": 3e-4, "f": 1e-4}
        optimizers = {name: torch.optim.Adam(networks[name].parameters(), lr=rate, betas=(0.5, 0.999)) for name, rate in rates.items()}
        return TrainState(size, networks, dict(optimizers), torch.Generator().manual_seed(seed))

    def train_step(self, state: TrainState, real: Tensor) -> dict[str, float]:
        generator, f = Bfloat16(state.networks["generator"]), state.networks["f"]
        z = torch.randn(2, len(real), state.size.latent_size, generator=state.random).to(real.device)
        negative = run(PRIOR, LatentEbm(f), z[0], random=state.random).chains.z
        positive = run(POSTERIOR, Posterior(generator, f, SIGMA), z[1], random=state.random, data=real).chains.z

        # Energy: up where the data's latents are, down where the model's own are.
        rise = f(positive).mean() - f(negative).mean()
        descend(state.optimizers["f"], -rise)

        # Generator: the likelihood of the images at their posterior latents.
        squares = (real - generator(positive)).square().flatten(1).sum(1)
        descend(state.optimizers["generator"], squares.mean() / (2 * SIGMA**2))
        state.step += 1
        mse = squares.mean().item() / (4 * real[0].numel())  # a quarter: on the [0, 1] scale
        return check_finite({"reconstruction_mse": mse, "energy_gap": rise.item()}, state.step)

    def samplers(self) -> dict[str, Kernel | None]:
        return {"prior": None, "latent-ebm": PRIOR}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        generator, f = networks["generator"], networks["f"]
        return {"latent-ebm": LatentEbm(f), "posterior": Posterior(generator, f, SIGMA)}

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        return networks["generator"]


FAMILY = Lebm()
