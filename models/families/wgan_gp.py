"""WGAN-GP: the critic estimates a Wasserstein distance, kept near Lipschitz by a penalty  (Gulrajani et al. 2017, arXiv 1704.00028).

The critic descends E c(G(z)) - E c(x) + λ E (|∇c(x̂)| - 1)², x̂ uniform between a real and a generated image; the generator descends
-E c(G(z)). The critic's scale comes from the penalty and not from the data, so c is no log density ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.costs import Cost, sngan_critic, sngan_generator
from models.families.adversarial_base import Adversarial
from models.families.base import BACK_AND_FORTH, Size, Space, TrainState, unchanged

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import Target


class WganGp(Adversarial):
    """Options of WGAN-GP."""

    critic_steps: int = Field(5, ge=1, le=100, description="steps of the critic for one of the generator")
    penalty: float = Field(10.0, ge=0, le=1e4, description="weight λ of the gradient penalty")
    pixel_scale: float = Field(500.0, gt=0, le=1e6, description="β of `pixel`: it samples exp(β c(x))")

    description: ClassVar[str] = "Wasserstein GAN with gradient penalty, whose critic is no density ratio until calibrated"
    only_calibrated: ClassVar[tuple[str, ...]] = ("ddls",)
    needs_calibration: ClassVar[dict[str, str]] = {
        "ddls": "the critic's scale is arbitrary and was never calibrated: DDLS on it samples no known density"
    }

    def costs(self, size: Size) -> dict[str, Cost]:
        critic = sngan_critic(size.width, size.image_shape)
        return {"generator": sngan_generator(size.latent_size, size.width, size.image_shape), "critic": critic, "ratio": critic}

    def step_cost(self, costs: Mapping[str, Cost]) -> Cost:
        """The penalty has a gradient of a gradient, which takes about three passes with a gradient."""
        plain, critic = super().step_cost(costs), costs["critic"]
        operations = plain.operations + self.critic_steps * 3 * BACK_AND_FORTH * critic.operations
        return Cost(plain.parameters, max(plain.numbers, 6 * critic.numbers), operations)

    def build(self, size: Size) -> nn.ModuleDict:
        from torch import nn

        from models.networks.sngan import Critic, Generator

        return nn.ModuleDict(
            {
                "generator": Generator(size.latent_size, size.width, size.image_shape),
                "critic": Critic(size.width, size.image_shape),  # no BatchNorm: the penalty is on each image's own gradient
                "ratio": Critic(size.width, size.image_shape, dropout=0.2),
            }
        )

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        return {name: Adam(networks[name].parameters(), lr=1e-4, betas=(0.0, 0.9)) for name in ("generator", "critic")}

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        from torch.special import ndtr

        critic = state.network("critic")
        distance: Tensor = critic(real).mean() - critic(fake).mean()
        share = ndtr(state.normals(len(real), 1, 1, 1))  # uniform
        state.figures["distance"] = distance.detach()
        return self.penalty * gradient_penalty(critic, fake.lerp(real, share)) - distance

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        values: Tensor = state.network("critic")(fake)
        return -values.mean()

    def samplers(self) -> dict[str, Kernel | None]:
        from models.kernels.mala import Mala

        return {**super().samplers(), "pixel": Mala(steps=100, step_size=1e-3)}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        from models.targets.pixel import Pixel

        return {**super().targets(networks), "pixel": Pixel(self.score(networks), self.pixel_scale)}

    def space(self, networks: nn.ModuleDict, size: Size, sampler: str) -> Space:
        """Chains of `pixel` begin at the generator's images."""
        space = super().space(networks, size, sampler)
        return Space(size.image_shape, space.decode, unchanged) if sampler == "pixel" else space

    def remarks(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> dict[str, str]:
        """`pixel` says so where the critic is flat."""
        import torch

        from models.targets.pixel import flatness

        score = self.score(networks)
        with torch.no_grad():
            remark = flatness(-score(real), -score(fake))
        return {"pixel": remark} if remark else {}


def gradient_penalty(critic: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Mean of (|∇c(x)| - 1)² over images x, (rows, ...), as (); it has a gradient in the critic's weights (eq. 3)."""
    import torch

    points = images.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(critic(points).sum(), points, create_graph=True)
    penalty: Tensor = (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
    return penalty
