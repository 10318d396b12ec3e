"""Networks of images and classes: an embedding beside the latent, and a projection critic  (Miyato & Koyama 2018, arXiv 1802.05637).

The class enters where layers are cheap: all that follows is the same for every class, so layers fold and freeze as without classes.
"""

import torch
from torch import Tensor, nn

from models.costs import EMBEDDING
from models.networks.ratio import rescale


class ConditionalGenerator(nn.Module):
    """G(z, y) = generator(z, e(y)): (rows, latent) and classes, (rows,) int64, to images; `generator` takes latent + EMBEDDING numbers."""

    def __init__(self, generator: nn.Module, classes: int) -> None:
        super().__init__()
        self.generator = generator
        self.embedding = nn.Embedding(classes, EMBEDDING)

    def forward(self, z: Tensor, classes: Tensor) -> Tensor:
        images: Tensor = self.generator(torch.cat([z, self.embedding(classes).to(z.dtype)], 1))
        return images


class ProjectionCritic(nn.Module):
    """d(x, y) = ψ(φ(x)) + v_y·φ(x): images and classes, (rows,) int64, to logits, (rows,).

    `critic` gives ψ(φ(x)) and v_y·φ(x) for every y, (rows, 1 + classes).
    """

    def __init__(self, critic: nn.Module, classes: int) -> None:
        super().__init__()
        self.critic = critic
        self.terms: Tensor  # (classes, 1 + classes), ones where a term counts
        self.register_buffer("terms", torch.cat([torch.ones(classes, 1), torch.eye(classes)], 1), persistent=False)

    def forward(self, images: Tensor, classes: Tensor) -> Tensor:
        logits: Tensor = (self.critic(images) * self.terms[classes]).sum(1)
        return logits

    def rescale(self, slope: float, intercept: float) -> None:
        """Makes the logit slope · logit + intercept, within the critic's last layer."""
        rescale(self.critic, slope, intercept)


class OfClasses(nn.Module):
    """A network with the classes of its rows filled in."""

    def __init__(self, network: nn.Module, classes: Tensor) -> None:
        super().__init__()
        self.network, self.classes = network, classes

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.network(inputs, self.classes)
        return outputs
