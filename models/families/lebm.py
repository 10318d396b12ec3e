"""LEBM: a latent energy-based prior p(z) ∝ exp(f(z)) N(0, I) under a generator x = g(z) + σe.

Algorithm 1 of Pang et al. 2020 (arXiv 2006.08205): short-run Langevin from fresh N(0, I) latents draws from the prior and the
posterior at every step; then f ascends E_posterior f - E_prior f, and g descends |x - g(z)|²/2σ² at the posterior's draws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.costs import Cost, dcgan_generator, perceptron
from models.families.base import BACK_AND_FORTH, Family, Size, TrainState
from models.kernels.langevin import Langevin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Chains, Kernel
    from models.targets.base import Target

PRIOR = Langevin(steps=60, step_size=0.16)  # the paper's s = 0.4: ε = s²
POSTERIOR = Langevin(steps=20, step_size=0.01)  # s = 0.1
EXPLAINING = Langevin(steps=100, step_size=0.01)  # of trained networks: 20 steps leave chains on their way, most have arrived after 60


class Lebm(Family):
    """Options of LEBM."""  # what /docs shows

    sigma: float = Field(0.3, gt=0, le=10, description="σ of the generator's noise on images in [-1, 1]")
    hidden: int = Field(200, ge=1, le=4096, description="width of the energy network's hidden layers")

    description: ClassVar[str] = "Generator with a latent energy-based prior"
    default_sampler: ClassVar[str] = "latent-ebm"
    preview_sampler: ClassVar[str] = "latent-ebm"
    reconstructs: ClassVar[bool] = True

    def costs(self, size: Size) -> dict[str, Cost]:
        generator = dcgan_generator(size.latent_size, size.width, size.image_shape)
        return {"generator": generator, "f": perceptron(size.latent_size, self.hidden, 1, layers=2)}

    def step_cost(self, costs: Mapping[str, Cost]) -> Cost:
        """Chains of prior and posterior, then a pass of each network; a step of a chain keeps nothing for the next."""
        generator, f = costs["generator"], costs["f"]
        passes = PRIOR.steps * f.operations + POSTERIOR.steps * (generator + f).operations + (generator + 2 * f).operations
        return Cost((generator + f).parameters, (generator + 2 * f).numbers, BACK_AND_FORTH * passes)

    def build(self, size: Size) -> nn.ModuleDict:
        from torch import nn

        from models.networks.dcgan import Generator
        from models.networks.latent_mlp import LatentMlp

        generator = Generator(size.latent_size, size.width, size.image_shape)
        return nn.ModuleDict({"generator": generator, "f": LatentMlp(size.latent_size, self.hidden)})

    def dress(self, networks: nn.ModuleDict) -> None:
        """Puts channels last: most of a step is transposed convolutions, and they take a tenth less time so."""
        import torch

        for weight in networks["generator"].parameters():
            if weight.dim() == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        rates = {"generator": 3e-4, "f": 1e-4}
        return {name: Adam(networks[name].parameters(), lr=rate, betas=(0.5, 0.999)) for name, rate in rates.items()}

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        from models.descent import descend
        from models.sampling import ends
        from models.targets.latent_ebm import LatentEbm
        from models.targets.posterior import Posterior

        generator, f, latent = state.network("generator"), state.networks["f"], state.size.latent_size
        negative = ends(PRIOR, LatentEbm(f), state.normals(len(images), latent), random=state.random)
        start = state.normals(len(images), latent)
        positive = ends(POSTERIOR, Posterior(generator, f, self.sigma), start, random=state.random, data=images)

        # Energy: up where the data's latents are, down where the model's own are.
        rise = f(positive).mean() - f(negative).mean()
        descend(state.optimizers["f"], -rise)

        # Generator: the likelihood of the images at their posterior latents.
        squares = (images - generator(positive)).square().flatten(1).sum(1)
        descend(state.optimizers["generator"], squares.mean() / (2 * self.sigma**2))
        state.step += 1
        mse = squares.mean() / (4 * images[0].numel())  # a quarter: on the [0, 1] scale
        return {"reconstruction_mse": mse.detach(), "energy_gap": rise.detach()}

    def samplers(self) -> dict[str, Kernel | None]:
        """`prior` draws from N(0, I), for comparison; `latent-ebm` from the learned prior."""
        return {"prior": None, "latent-ebm": PRIOR}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        from models.targets.latent_ebm import LatentEbm
        from models.targets.posterior import Posterior

        generator, f = networks["generator"], networks["f"]
        return {"latent-ebm": LatentEbm(f), "posterior": Posterior(generator, f, self.sigma)}

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        return networks["generator"]

    def reconstruct(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """g at latents drawn from the posterior."""
        import torch

        with torch.no_grad():
            reconstructed: Tensor = networks["generator"](self._explained(networks, images, random).z)
        return reconstructed

    def anomaly(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Tensor:
        """|x - g(z)|²/2σ² - f(z) + |z|²/2 at latents drawn from the posterior."""
        return self._explained(networks, images, random).energy

    def _explained(self, networks: nn.ModuleDict, images: Tensor, random: torch.Generator) -> Chains:
        """Posterior Langevin from N(0, I), a chain for each image."""
        import torch

        from models.device import send
        from models.networks.latent_mlp import LatentMlp
        from models.sampling import run

        f = networks["f"]
        assert isinstance(f, LatentMlp)
        start = torch.randn(len(images), f.latent, generator=random)
        target = self.targets(networks)["posterior"]
        return run(EXPLAINING, target, send(start, images.device), random=random, data=images).chains
