"""The first GAN: two perceptrons against each other  (Goodfellow et al. 2014, arXiv 1406.2661, algorithm 1).

The critic ascends E log D(x) + E log(1 - D(G(z))), D the sigmoid of its logit d. The generator descends E log(1 - D(G(z))) (minimax) or
-E log D(G(z)) (non-saturating), which has the same fixed point and a gradient where D is sure. Unlike the paper: ReLU in the critic
where it has maxout, no dropout, tanh where it has a sigmoid, latents from N(0, I).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from models.costs import Cost, perceptron
from models.families.adversarial_base import Adversarial
from models.families.base import Size, TrainState

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

RATES = {"adam": 2e-4, "sgd": 0.1}


class Gan(Adversarial):
    """Options of the GAN of 2014."""

    loss: Literal["non-saturating", "minimax"] = Field("non-saturating", description="objective of the generator")
    optimizer: Literal["adam", "sgd"] = Field("adam", description="Adam with β .5 and .999, or the paper's gradient descent with momentum")
    learning_rate: float | None = Field(None, gt=0, le=10, description="of both networks; without one, 2e-4 for adam and 0.1 for sgd")
    momentum: float = Field(0.5, ge=0, lt=1, description="of sgd")
    layers: int = Field(2, ge=1, le=16, description="hidden layers of each network, all of the model's width")

    description: ClassVar[str] = "GAN of multilayer perceptrons"

    def costs(self, size: Size) -> dict[str, Cost]:
        pixels = math.prod(size.image_shape)
        critic = perceptron(pixels, size.width, 1, layers=self.layers)
        return {"generator": perceptron(size.latent_size, size.width, pixels, layers=self.layers), "critic": critic, "ratio": critic}

    def build(self, size: Size) -> nn.ModuleDict:
        from torch import nn

        from models.datasets import POINT
        from models.networks.perceptrons import Critic, CriticOfPoints, Generator

        def critic() -> nn.Module:
            return Critic(size.width, size.image_shape, layers=self.layers)

        return nn.ModuleDict(
            {
                "generator": Generator(size.latent_size, size.width, size.image_shape, layers=self.layers),
                "critic": critic(),
                "ratio": CriticOfPoints(size.width, layers=self.layers) if size.image_shape == POINT else critic(),
            }
        )

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        from models.networks.perceptrons import CriticOfPoints

        ratio = networks["ratio"]
        if isinstance(ratio, CriticOfPoints):
            ratio.imitate(networks["critic"])  # type: ignore[arg-type]
        else:
            super().uncalibrate(networks)

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import SGD, Adam

        rate = self.learning_rate or RATES[self.optimizer]
        trained = {name: networks[name].parameters() for name in ("generator", "critic")}
        if self.optimizer == "sgd":
            return {name: SGD(parameters, lr=rate, momentum=self.momentum) for name, parameters in trained.items()}
        return {name: Adam(parameters, lr=rate, betas=(0.5, 0.999)) for name, parameters in trained.items()}

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        critic = state.network("critic")
        return discrimination_loss(critic(real), critic(fake))

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        logits: Tensor = state.network("critic")(fake)
        return minimax_loss(logits) if self.loss == "minimax" else non_saturating_loss(logits)


def discrimination_loss(real: Tensor, fake: Tensor) -> Tensor:
    """-E log D(x) - E log(1 - D(G(z))) in nats, of logits of real and generated images, each (rows,): 2 log 2 where D is blind."""
    import torch.nn.functional as F

    return F.softplus(-real).mean() + F.softplus(fake).mean()


def minimax_loss(fake: Tensor) -> Tensor:
    """E log(1 - D(G(z))) of logits, (rows,): its gradient in a logit is -D, next to nothing where D is sure."""
    import torch.nn.functional as F

    return -F.softplus(fake).mean()


def non_saturating_loss(fake: Tensor) -> Tensor:
    """-E log D(G(z)) of logits, (rows,): its gradient in a logit is -(1 - D)."""
    import torch.nn.functional as F

    return F.softplus(-fake).mean()
