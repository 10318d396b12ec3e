"""DCGAN: convolutions with BatchNorm in both networks  (Radford et al. 2016, arXiv 1511.06434), the objective non-saturating.

In training the critic judges a batch by that batch's own statistics, real and generated ones apart; in eval mode by averages of both.
So the trained critic and the published one are different functions, and DDLS waits for a ratio that is fitted without BatchNorm.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from models.costs import Cost, dcgan_critic, sngan_critic, sngan_generator
from models.families.adversarial_base import Adversarial
from models.families.base import Size, TrainState
from models.families.gan import discrimination_loss, non_saturating_loss

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Dcgan(Adversarial):
    """Options of DCGAN."""

    description: ClassVar[str] = "Convolutional GAN with BatchNorm"
    only_calibrated: ClassVar[tuple[str, ...]] = ("ddls",)

    def costs(self, size: Size) -> dict[str, Cost]:
        return {
            "generator": sngan_generator(size.latent_size, size.width, size.image_shape),
            "critic": dcgan_critic(size.width, size.image_shape),
            "ratio": sngan_critic(size.width, size.image_shape),
        }

    def build(self, size: Size) -> nn.ModuleDict:
        from torch import nn

        from models.networks import sngan
        from models.networks.dcgan_critic import Critic

        return nn.ModuleDict(
            {
                "generator": sngan.Generator(size.latent_size, size.width, size.image_shape),
                "critic": Critic(size.width, size.image_shape),
                "ratio": sngan.Critic(size.width, size.image_shape, dropout=0.2),
            }
        )

    def dress(self, networks: nn.ModuleDict) -> None:
        """The paper's first weights: N(0, .02²), and N(1, .02²) for the factors of BatchNorm."""
        from torch import nn

        for name in ("generator", "critic"):
            for layer in networks[name].modules():
                if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                    nn.init.normal_(layer.weight, 0.0, 0.02)
                elif isinstance(layer, nn.BatchNorm2d):
                    nn.init.normal_(layer.weight, 1.0, 0.02)

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        return {name: Adam(networks[name].parameters(), lr=2e-4, betas=(0.5, 0.999)) for name in ("generator", "critic")}

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        critic = state.network("critic")
        return discrimination_loss(critic(real), critic(fake))

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        logits: Tensor = state.network("critic")(fake)
        return non_saturating_loss(logits)

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """Nothing takes the place of the ratio: `ddls` is not offered then."""
