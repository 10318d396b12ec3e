"""Faults seen in public code of GANs and EBMs: for each a check that Ebbtide passes, and the fault itself, which fails it."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.families import family, names
from models.families.base import Size, TrainState, published, spaces
from models.kernels import KERNELS, Kernel
from models.kernels.mala import Mala
from models.sampling import run
from models.targets.base import Target, evaluate, standard_normal
from models.targets.ddls import Ddls
from models.targets.latent_ebm import LatentEbm
from models.targets.posterior import Posterior
from tests.models.broken_kernels import AdaptingMala
from tests.models.closed_forms import assert_gaussian, check, plain, random
from tests.models.test_closed_forms import ROWS

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8)


class PriorlessDdls(Ddls):
    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return super().energy(z, data) - standard_normal(z)


class ReversedDdls(Ddls):
    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return standard_normal(z) + self.log_ratio(self.generator(z))


class ProbabilityDdls(Ddls):
    """D(x), a probability, in the place of its logit."""

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return standard_normal(z) - torch.sigmoid(self.log_ratio(self.generator(z)))


class StrangersDdls(Ddls):
    """Every chain has its neighbour's class."""

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return super().energy(z, data.roll(1))


class PriorlessLatentEbm(LatentEbm):
    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return super().energy(z, data) - standard_normal(z)


class PriorlessPosterior(Posterior):
    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        return super().energy(z, data) - standard_normal(z)


class StandardDeviationPosterior(Posterior):
    """σ in the place of σ²."""

    def energy(self, z: Tensor, data: Tensor | None = None) -> Tensor:
        misfit = (data - self.generator(z)).square().flatten(1).sum(1) / (2 * self.sigma)
        return misfit - self.f(z) + standard_normal(z)


@pytest.mark.parametrize(
    ("label", "broken"),
    [
        ("langevin walks on linear critic", PriorlessDdls),
        ("mala finds quadratic critic", ReversedDdls),
        ("mala finds linear critic", ProbabilityDdls),
        ("mala finds classes", StrangersDdls),
        ("langevin walks on latent EBM", PriorlessLatentEbm),
        ("langevin walks on posterior", PriorlessPosterior),
        ("hmc finds posterior", StandardDeviationPosterior),
    ],
)
def test_a_broken_target_is_caught(label, broken):
    row = ROWS[label]
    target = broken(**vars(row.problem.target))
    with pytest.raises(AssertionError, match="found|normal"):
        check(row._replace(problem=row.problem._replace(target=target)))


def test_mala_that_keeps_only_accepted_states_is_caught():
    problem = plain(torch.zeros(2))
    end = run(Mala(steps=1, step_size=2.5), problem.target, problem.answer.draw(100_000), random=random(11))
    assert_gaussian(end.chains.z, problem.answer)
    accepted = end.chains.z[end.acceptance > 0]
    with pytest.raises(AssertionError, match="covariance"):
        assert_gaussian(accepted, problem.answer)
    assert accepted.var() > 1.15


def check_settings_stay(kernel: Kernel) -> None:
    """Fails where a run changes a kernel's settings: a step adapted for ever samples something else."""
    z = torch.randn(50, 3, generator=random(5))
    end = run(kernel, plain(torch.zeros(3)).target, z, random=random(11))
    for name in kernel.columns:
        assert (end.chains.settings[name] == getattr(kernel, name)).all(), f"{name} was changed"


@pytest.mark.parametrize("name", KERNELS)
def test_no_kernel_adapts_its_settings_as_it_runs(name):
    check_settings_stay(KERNELS[name](steps=20))
    with pytest.raises(AssertionError, match="step_size was changed"):
        check_settings_stay(AdaptingMala(steps=20))


def trained(name: str) -> TrainState:
    """Networks after a step, so that statistics and spectral norms are not at their start."""
    kind = family(name)
    state, count = kind.begin(SIZE, seed=0), 16 * kind.batches_per_step
    kind.train_step(state, torch.rand(count, *SIZE.image_shape, generator=random(6)) * 2 - 1, torch.arange(count) % SIZE.classes)
    return state


def check_rows_are_alone(target: Target, points: Tensor) -> None:
    """Fails where a chain's energy or gradient depends on its neighbours in the batch."""
    data = None
    if target.data is not None:
        rows = len(points)
        data = torch.rand(rows, *SIZE.image_shape, generator=random(6)) if target.data == "image" else torch.arange(rows) % SIZE.classes
    together = evaluate(target, points, data)
    among_others = evaluate(target, torch.cat([points[:1], 3 * points[1:]]), data)
    torch.testing.assert_close(among_others.energy[0], together.energy[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(among_others.gradient[0], together.gradient[0], rtol=1e-3, atol=1e-5)


def targets_and_points(name: str) -> tuple[nn.ModuleDict, dict[str, tuple[Target, Tensor]]]:
    """The published networks, and for each target points to begin at."""
    kind = family(name)
    networks = published(kind, trained(name))
    found = spaces(kind, networks, SIZE)
    normals = torch.randn(8, *found["prior"].shape, generator=random(7))
    return networks, {target: (energy, found[target].start(normals)) for target, energy in kind.targets(networks).items()}


@pytest.mark.parametrize("name", names())
def test_published_networks_are_in_eval_mode_and_keep_chains_apart(name):
    networks, found = targets_and_points(name)
    assert not any(module.training for module in networks.modules())
    for target, points in found.values():
        check_rows_are_alone(target, points)


def test_batchnorm_left_in_training_mode_is_caught():
    networks, found = targets_and_points("sngan")
    networks["generator"].train()
    with pytest.raises(AssertionError, match="not close"):
        check_rows_are_alone(*found["ddls"])


class MinibatchStatistics(nn.Module):
    """A critic that also looks at how much the images of the batch differ."""

    def __init__(self, critic: nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, images: Tensor) -> Tensor:
        return self.critic(images) + images.std(0).mean()


def test_minibatch_statistics_in_the_critic_are_caught():
    networks, found = targets_and_points("sngan")
    with pytest.raises(AssertionError, match="not close"):
        check_rows_are_alone(Ddls(networks["generator"], MinibatchStatistics(networks["critic"])), found["ddls"][1])


def check_hinge(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """Fails where the margin is not one for each image; `loss` takes the logits of two real and two generated images."""
    beyond_and_within = torch.tensor([3.0, 0.0]), torch.tensor([-3.0, 1.0])
    assert float(loss(*beyond_and_within)) == pytest.approx(1 / 2 + 2 / 2), "hinge"  # an image beyond its margin counts nothing


class Brightness(nn.Module):
    """A critic that returns an image's mean."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1).mean(1)


def test_the_hinge_of_sngan_is_one_for_each_image():
    kind = family("sngan", {"loss": "hinge"})
    state = kind.begin(SIZE, seed=0)
    state.networks["critic"] = Brightness()

    def loss(real: Tensor, fake: Tensor) -> Tensor:
        return kind.critic_loss(state, *(logits[:, None, None, None].expand(-1, *SIZE.image_shape) for logits in (real, fake)))

    check_hinge(loss)
    with pytest.raises(AssertionError, match="hinge"):
        check_hinge(lambda real, fake: torch.relu(1 - real.mean()) + torch.relu(1 + fake.mean()))


def check_settled(weights: dict[str, Tensor], dressed: nn.Module) -> None:
    """Fails where a layer that was trained under spectral norm does not have it: its largest singular value must be 1."""
    layers = [name for name, module in dressed.named_modules() if hasattr(module, "parametrizations")]
    assert layers
    for name in layers:
        largest = float(torch.linalg.matrix_norm(weights[f"{name}.weight"].flatten(1), 2))
        assert largest == pytest.approx(1, abs=0.01), f"{name} is not settled"


def test_spectral_norm_is_settled_into_the_published_weights():
    state = trained("sngan")
    critic = state.networks["critic"]
    plain_weights = published(family("sngan"), state)["critic"].state_dict()
    check_settled(plain_weights, critic)
    again = published(family("sngan"), state)["critic"].state_dict()  # publishing does not move the power iteration
    assert all(torch.equal(plain_weights[name], again[name]) for name in again)
    raw = {name.replace("parametrizations.weight.original", "weight"): tensor for name, tensor in critic.state_dict().items()}
    with pytest.raises(AssertionError, match="not settled"):
        check_settled(raw, critic)
