"""SNGAN: a non-saturating GAN (Goodfellow et al. 2014) with spectral norm on the critic (Miyato et al. 2018) and a learned logit scale.

Critic ascends E log D(x) + E log(1 - D(G(z))), generator descends -log D(G(z)), D the sigmoid of the critic's logit.
"""

from collections.abc import Callable
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models.cards import SamplerName
from models.families.base import Size, TrainState, check_finite, descend
from models.kernels import Kernel
from models.kernels.mala import Mala
from models.networks.bfloat16 import Bfloat16
from models.networks.sngan import Critic, Generator
from models.targets.base import Target
from models.targets.ddls import Ddls


class Sngan:
    """The generator gives images, the ratio head, fitted after training, gives DDLS its density ratio."""

    default_sampler: ClassVar[SamplerName] = "ddls"
    preview_sampler: ClassVar[SamplerName] = "prior"
    description: ClassVar[str] = "Convolutional GAN with spectral norm"

    def build(self, size: Size) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "generator": Generator(size.latent_size, size.width, size.image_shape),
                "critic": Critic(size.width, size.image_shape),
                "ratio": Critic(size.width, size.image_shape, dropout=0.2),
            }
        )

    def begin(self, size: Size, seed: int) -> TrainState:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = self.build(size)
            for layer in networks["critic"].modules():
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    spectral_norm(layer)
        optimizers = {name: torch.optim.Adam(networks[name].parameters(), lr=2e-4, betas=(0.0, 0.9)) for name in ("generator", "critic")}
        return TrainState(size, networks, dict(optimizers), torch.Generator().manual_seed(seed))

    def train_step(self, state: TrainState, real: Tensor) -> dict[str, float]:
        generator, critic = Bfloat16(state.networks["generator"]), Bfloat16(state.networks["critic"])
        z = torch.randn(2, len(real), state.size.latent_size, generator=state.random).to(real.device)

        # Critic: a batch of real and one of fake, each judged on its own.
        fake = generator(z[0]).detach()
        loss_critic = F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()
        descend(state.optimizers["critic"], loss_critic)

        # Generator: fresh latents, the non-saturating loss.
        loss_generator = F.softplus(-critic(generator(z[1]))).mean()
        descend(state.optimizers["generator"], loss_generator)
        state.step += 1
        return check_finite({"loss_critic": loss_critic.item(), "loss_generator": loss_generator.item()}, state.step)

    def samplers(self) -> dict[str, Kernel | None]:
        return {"prior": None, "ddls": Mala(steps=40, step_size=0.3)}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        return {"ddls": Ddls(networks["generator"], networks["ratio"])}

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        return networks["generator"]


FAMILY = Sngan()
