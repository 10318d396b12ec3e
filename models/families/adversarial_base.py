"""What families of a generator and a critic share: the step that trains them, and DDLS on their density ratio  (Che et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.costs import Cost
from models.families.base import BACK_AND_FORTH, Family, TrainState

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import Target


class Adversarial(Family):
    """A generator against a critic of images; the ratio, fitted afterwards, gives DDLS the density ratio that the last critic is not."""

    critic_steps: int = Field(1, ge=1, le=100, description="steps of the critic for one of the generator")
    ema: float = Field(0.0, ge=0, lt=1, description="decay of the moving average of the generator's weights that is published; 0 for none")

    default_sampler: ClassVar[str] = "ddls"
    preview_sampler: ClassVar[str] = "prior"
    needs_calibration: ClassVar[dict[str, str]] = {
        "ddls": "the critic was never calibrated as a density ratio: DDLS may make samples worse"
    }

    @property
    def batches_per_step(self) -> int:
        return self.critic_steps

    @property
    def averaged(self) -> dict[str, float]:
        return {"generator": self.ema} if self.ema else {}

    def step_cost(self, costs: Mapping[str, Cost]) -> Cost:
        generator, critic = costs["generator"], self.critic_cost(costs)
        judged = 2 * critic  # real and generated images
        operations = self.critic_steps * (generator.operations + BACK_AND_FORTH * judged.operations)
        operations += BACK_AND_FORTH * (generator + critic).operations
        return Cost((generator + critic).parameters, max(judged.numbers, (generator + critic).numbers), operations)

    def critic_cost(self, costs: Mapping[str, Cost]) -> Cost:
        """What the critic costs for one image."""
        return costs["critic"]

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        """What the critic descends, (); `real` and `fake` are (batch, channels, height, width)."""
        raise NotImplementedError

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        """What the generator descends, (); `fake` has its gradient."""
        raise NotImplementedError

    def train_step(self, state: TrainState, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """`critic_steps` batches for the critic, each judged on its own with fresh fakes; then a step of the generator.

        Where networks take classes, fakes have those of the real images of their batch, and `state.network` fills them in.
        """
        import torch

        from models.descent import descend

        latent = state.size.latent_size
        for real, classes in zip(images.chunk(self.critic_steps), labels.chunk(self.critic_steps), strict=True):
            state.classes = classes if self.takes_classes else None
            generator = state.network("generator")
            with torch.no_grad():
                fake = generator(state.normals(len(real), latent))
            loss_critic = self.critic_loss(state, real, fake)
            descend(state.optimizers["critic"], loss_critic)
        loss_generator = self.generator_loss(state, generator(state.normals(len(real), latent)))
        descend(state.optimizers["generator"], loss_generator)
        state.step += 1
        return {"loss_critic": loss_critic.detach(), "loss_generator": loss_generator.detach(), **state.figures}

    def samplers(self) -> dict[str, Kernel | None]:
        from models.kernels.mala import Mala

        return {"prior": None, "ddls": Mala(steps=40, step_size=0.3)}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        from models.targets.ddls import Ddls

        return {"ddls": Ddls(networks["generator"], networks["ratio"], "class" if self.takes_classes else None)}

    def decoder(self, networks: nn.ModuleDict) -> Callable[..., Tensor]:
        return networks["generator"]

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """The raw critic takes the place of the ratio."""
        networks["ratio"].load_state_dict(networks["critic"].state_dict())
