"""EBGAN: the critic is an auto-encoder, and its error is the energy  (Zhao et al. 2017, arXiv 1609.03126).

D(x) = |Dec(Enc(x)) - x|, the Euclidean norm over all numbers of one image in [-1, 1]: it grows with the square root of their count, and
the margin with it. The critic descends E D(x) + E [m - D(G(z))]⁺, the generator E D(G(z)) + w · f_PT of the codes Enc(G(z)).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from models.costs import Cost, dcgan_generator, encoder, sngan_critic, sngan_generator
from models.families.adversarial_base import Adversarial
from models.families.base import Size, Space, TrainState, unchanged

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from models.kernels import Kernel
    from models.targets.base import Target


class Ebgan(Adversarial):
    """Options of EBGAN."""

    margin: float = Field(10.0, gt=0, le=1e4, description="m, in units of the energy; 10 suits 28×28 images, and it grows with the side")
    pulling_away: float = Field(0.0, ge=0, le=100, description="weight w of the pulling-away term; the paper's is 0.1, and 0 leaves it out")
    code: int = Field(64, ge=1, le=4096, description="numbers in the auto-encoder's code")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="of Adam, for both networks")
    pixel_scale: float = Field(500.0, gt=0, le=1e6, description="β of `pixel`: it samples exp(-β D(x))")

    description: ClassVar[str] = "GAN with an auto-encoder's error as energy"
    default_sampler: ClassVar[str] = "prior"
    only_calibrated: ClassVar[tuple[str, ...]] = ("ddls",)

    def costs(self, size: Size) -> dict[str, Cost]:
        width, shape = size.width, size.image_shape
        return {
            "generator": sngan_generator(size.latent_size, width, shape),
            "encoder": encoder(self.code, width, shape),
            "decoder": dcgan_generator(self.code, width, shape),
            "ratio": sngan_critic(width, shape),
        }

    def critic_cost(self, costs: Mapping[str, Cost]) -> Cost:
        return costs["encoder"] + costs["decoder"]

    def build(self, size: Size) -> nn.ModuleDict:
        """No BatchNorm in the auto-encoder: each image has an energy of its own."""
        from torch import nn

        from models.networks import dcgan, sngan
        from models.networks.encoder import Encoder

        return nn.ModuleDict(
            {
                "generator": sngan.Generator(size.latent_size, size.width, size.image_shape),
                "encoder": Encoder(self.code, size.width, size.image_shape),
                "decoder": dcgan.Generator(self.code, size.width, size.image_shape),
                "ratio": sngan.Critic(size.width, size.image_shape, dropout=0.2),
            }
        )

    def optimizers(self, networks: nn.ModuleDict) -> dict[str, torch.optim.Optimizer]:
        from torch.optim import Adam

        critic = [*networks["encoder"].parameters(), *networks["decoder"].parameters()]
        trained = {"generator": [*networks["generator"].parameters()], "critic": critic}
        return {name: Adam(parameters, lr=self.learning_rate, betas=(0.5, 0.999)) for name, parameters in trained.items()}

    def critic_loss(self, state: TrainState, real: Tensor, fake: Tensor) -> Tensor:
        from models.networks.reconstruction import reconstruction_error

        encoder, decoder = state.network("encoder"), state.network("decoder")
        real_energy, fake_energy = reconstruction_error(decoder(encoder(real)), real), reconstruction_error(decoder(encoder(fake)), fake)
        state.figures |= {"energy_real": real_energy.mean().detach(), "energy_fake": fake_energy.mean().detach()}
        return margin_loss(real_energy, fake_energy, self.margin)

    def generator_loss(self, state: TrainState, fake: Tensor) -> Tensor:
        from models.joint import gathered
        from models.networks.reconstruction import reconstruction_error

        codes = state.network("encoder")(fake)
        energy = reconstruction_error(state.network("decoder")(codes), fake).mean()
        return energy + self.pulling_away * pulling_away(gathered(codes)) if self.pulling_away else energy

    def samplers(self) -> dict[str, Kernel | None]:
        from models.kernels.mala import Mala

        return {**super().samplers(), "pixel": Mala(steps=100, step_size=1e-3)}

    def targets(self, networks: nn.ModuleDict) -> dict[str, Target]:
        from models.targets.pixel import Pixel

        return {**super().targets(networks), "pixel": Pixel(self.score(networks), self.pixel_scale)}

    def score(self, networks: nn.ModuleDict) -> nn.Module:
        """-D."""
        from models.networks.reconstruction import Faithfulness

        return Faithfulness(networks["encoder"], networks["decoder"])

    def space(self, networks: nn.ModuleDict, size: Size, sampler: str) -> Space:
        """Chains of `pixel` begin at the generator's images."""
        space = super().space(networks, size, sampler)
        return Space(size.image_shape, space.decode, unchanged) if sampler == "pixel" else space

    def uncalibrate(self, networks: nn.ModuleDict) -> None:
        """Nothing takes the place of the ratio: `ddls` is not offered then."""

    def remarks(self, networks: nn.ModuleDict, real: Tensor, fake: Tensor) -> dict[str, str]:
        """At the equilibrium of EBGAN the critic is flat (theorem 2): then `pixel` says so."""
        import torch

        from models.targets.pixel import flatness

        score = self.score(networks)
        with torch.no_grad():
            remark = flatness(-score(real), -score(fake))
        return {"pixel": remark} if remark else {}


def margin_loss(real_energy: Tensor, fake_energy: Tensor, margin: float) -> Tensor:
    """E D(x) + E [m - D(G(z))]⁺, each image hinged by itself: energies, (rows,) each, to (), at least m where both are alike (eq. 1)."""
    return real_energy.mean() + (margin - fake_energy).relu().mean()


def pulling_away(encodings: Tensor) -> Tensor:
    """f_PT = 1/(N(N-1)) Σ_{i≠j} cos²(S_i, S_j) of codes S, (rows, code), to () between 0 and 1 (eq. 4); of one row it is not a number."""
    import torch.nn.functional as F

    rows = len(encodings)
    directions = F.normalize(encodings, dim=1)
    squares = (directions @ directions.T).square()
    off_diagonal: Tensor = squares.sum() - squares.diagonal().sum()
    return off_diagonal / (rows * (rows - 1))
