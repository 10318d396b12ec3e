"""SNGAN: a GAN with spectral norm on the critic (Miyato et al. 2018, arXiv 1802.05957) and a learned logit scale.

Non-saturating: critic ascends E log D(x) + E log(1 - D(G(z))), generator descends -log D(G(z)), D the sigmoid of the critic's logit d.
Hinge: critic descends E [1 - d(x)]⁺ + E [1 + d(G(z))]⁺, generator descends -E d(G(z)).
Conditional: G(z, y) and a projection critic d(x, y)  (Miyato & Koyama 2018, arXiv 1802.05637); fakes have the classes of the real batch.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.costs import EMBEDDING, Cost, Unsuitable, sngan_critic, sngan_generator
from models.families.adversarial_base import Adversarial
from models.families.base import Size, Space, TrainState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Sngan(Adversarial):
    """Options of SNGAN."""

    loss: Literal["non-saturating", "hinge"] = Field("non-saturating", description="objective of critic and generator")
    conditional: bool = Field(False, description="whether images have the class that a request names; the dataset must have classes")
    output_noise: float = Field(
        0.0, ge=0, le=1, description="σ of images G(z) + σz': once trained, chains move over (z, z'); 0 for images without noise"
    )

    description: ClassVar[str] = "Convolutional GAN with spectral norm"

    @property
    def takes_classes(self) -> bool:
        return self.conditional

    def costs(self, size: Size) -> dict[str, Cost]:
        """Raises Unsuitable for a conditional model of one class."""
        if self.conditional and size.classes < 2:
            raise Unsuitable("options.conditional", "conditional=true needs a dataset of at least 2 classes; this one has none")
        classes = self.classes(size)
        generator = sngan_generator(size.latent_size + EMBEDDING * self.conditional, size.width, size.image_shape)
        critic = sngan_critic(size.width, size.image_shape, outputs=1 + classes)
        return {"generator": generator + Cost(parameters=EMBEDDING * classes), "critic": critic, "ratio": critic}

    def build(self, size: Size) -> nn.ModuleDict:
        """Raises Unsuitable for a conditional model of one class."""
        from torch import nn

        self.costs(size)
        networks = {"generator": self._generator(size), "critic": self._critic(size), "ratio": self._critic(size, dropout=0.2)}
        return nn.ModuleDict(networks)

    def _generator(self, size: Size) -> nn.Module:
        from models.networks.conditional import ConditionalGenerator
        from models.networks.output_noise import OutputNoise
        from models.networks.sngan import Generator

        told = EMBEDDING if self.conditional else 0
        generator: nn.Module = Generator(size.latent_size + told, size.width, size.image_shape)
        if self.conditional:
            generator = ConditionalGenerator(generator, size.classes)
        return OutputNoise(generator, size.latent_size, self.output_noise) if self.output_noise else generator

    def _critic(self, size: Size, dropout: float = 0.0) -> nn.Module:
        from models.networks.conditional import ProjectionCritic
        from models.networks.sngan import Critic

        classes = self.classes(size)
        critic = Critic(size.width, size.image_shape, outputs=1 + classes, dropout=dropout)
        return ProjectionCritic(critic, classes) if classes else critic

    def space(self, networks: nn.ModuleDict, size: Size, sampler: str) -> Space:
        """Latents, or with output noise pairs of a latent and the noise of its image, one after the other."""
        shape = (size.latent_size + (math.prod(size.image_shape) if self.output_noise else 0),)
        return replace(super().space(networks, size, sampler), shape=shape)

    def dress(self, networks: nn.ModuleDict) -> None:
        from torch import nn
        from torch.nn.utils.parametrizations import spectral_norm

        for layer in networks["critic"].modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        return {name: Adam(networks[name].parameters(), lr=2e-4, betas=(0.0, 0.9)) for name in ("generator", "critic")}

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        import torch.nn.functional as F

        critic = state.network("critic")
        if self.loss == "hinge":
            return F.relu(1 - critic(real)).mean() + F.relu(1 + critic(fake)).mean()
        return F.softplus(-critic(real)).mean() + F.softplus(critic(fake)).mean()

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        import torch.nn.functional as F

        logits: Tensor = state.network("critic")(fake)
        return -logits.mean() if self.loss == "hinge" else F.softplus(-logits).mean()
