"""SNGAN: a non-saturating GAN (Goodfellow et al. 2014) with spectral norm on the critic (Miyato et al. 2018) and a learned logit scale.

Critic ascends E log D(x) + E log(1 - D(G(z))), generator descends -log D(G(z)), D the sigmoid of the critic's logit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from models.families.base import Family, Fit, Size, TrainState
from models.kernels.mala import Mala

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.datasets import Images
    from models.kernels import Kernel
    from models.targets.base import Target


class Sngan(Family):
    """Options of SNGAN: none."""

    description: ClassVar[str] = "Convolutional GAN with spectral norm"
    default_sampler: ClassVar[str] = "ddls"
    preview_sampler: ClassVar[str] = "prior"
    needs_calibration: ClassVar[dict[str, str]] = {
        "ddls": "the critic was never calibrated as a density ratio: DDLS may make samples worse"
    }

    def build(self, size: Size) -> nn.ModuleDict:
        """The generator gives images; the ratio head, fitted after training, gives DDLS its density ratio."""
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

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        import torch.nn.functional as F

        from models.descent import descend
        from models.networks.bfloat16 import Bfloat16

        generator, critic = Bfloat16(state.networks["generator"]), Bfloat16(state.networks["critic"])
        z = state.normals(2, len(images), state.size.latent_size)

        # Critic: a batch of real and one of fake, each judged on its own.
        fake = generator(z[0]).detach()
        loss_critic = F.softplus(-critic(images)).mean() + F.softplus(critic(fake)).mean()
        descend(state.optimizers["critic"], loss_critic)

        # Generator: fresh latents, the non-saturating loss.
        loss_generator = F.softplus(-critic(generator(z[1]))).mean()
        descend(state.optimizers["generator"], loss_generator)
        state.step += 1
        return {"loss_critic": loss_critic.detach(), "loss_generator": loss_generator.detach()}

    def samplers(self) -> dict[str, Kernel | None]:
        return {"prior": None, "ddls": Mala(steps=40, step_size=0.3)}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        from models.targets.ddls import Ddls

        return {"ddls": Ddls(networks["generator"], networks["ratio"])}

    def decoder(self, networks: nn.ModuleDict) -> Callable[[Tensor], Tensor]:
        return networks["generator"]

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """The raw critic takes the place of the ratio head."""
        networks["ratio"].load_state_dict(networks["critic"].state_dict())

    def calibrate(self, networks: nn.ModuleDict, size: Size, images: Images, draw: Callable[[int, torch.Generator], Tensor]) -> Fit:
        from models.ratio_head import fit_ratio_head

        head = networks["ratio"]
        head.load_state_dict(self.build(size)["ratio"].state_dict())
        return Fit("ratio-head", fit_ratio_head(head, draw, images.train, images.held_out), head)
