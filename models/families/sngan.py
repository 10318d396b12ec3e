"""SNGAN: a GAN with spectral norm on the critic (Miyato et al. 2018, arXiv 1802.05957) and a learned logit scale.

Non-saturating: critic ascends E log D(x) + E log(1 - D(G(z))), generator descends -log D(G(z)), D the sigmoid of the critic's logit d.
Hinge: critic descends E [1 - d(x)]⁺ + E [1 + d(G(z))]⁺, generator descends -E d(G(z)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.families.base import Adversarial, Size, TrainState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Sngan(Adversarial):
    """Options of SNGAN."""

    loss: Literal["non-saturating", "hinge"] = Field("non-saturating", description="objective of critic and generator")

    description: ClassVar[str] = "Convolutional GAN with spectral norm"

    def build(self, size: Size) -> nn.ModuleDict:
        from torch import nn

        from models.networks.sngan import Critic, Generator

        return nn.ModuleDict(
            {
                "generator": Generator(size.latent_size, size.width, size.image_shape),
                "critic": Critic(size.width, size.image_shape),
                "ratio": Critic(size.width, size.image_shape, dropout=0.2),
            }
        )

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
