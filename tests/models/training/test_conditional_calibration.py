"""The ratio of a conditional model is fitted to pairs of image and class: it finds what no image shows alone."""

import torch
from torch import nn

from models import datasets
from models.calibration.ratio_head import Disturbance, train_head
from models.calibration.settings import RatioHead
from models.cards import Training
from models.families import family
from models.families.base import Size, published
from models.networks.conditional import ProjectionCritic
from models.networks.sngan import Critic
from models.training.calibration import Attempt, Plan, uncalibrated
from models.training.measurement import Trained

SIZE = Size(image_shape=(1, 8, 8), latent_size=4, width=8, classes=10)


class Mistaken(nn.Module):
    """Latents and classes to real digits: half of them of the class that was asked for, half of the one after it."""

    def __init__(self, split: datasets.Split) -> None:
        super().__init__()
        self.register_buffer("images", torch.stack([split.images[split.labels == label][:10] for label in range(10)]))

    def forward(self, z: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        which = (torch.special.ndtr(z[:, 0]) * 10).long().clamp(max=9)
        return self.images[(classes + (z[:, 1] > 0)) % 10, which]


def test_the_head_of_a_conditional_model_tells_wrong_classes_from_right_ones():
    splits, kind = datasets.load("digits"), family("sngan", {"conditional": True})
    networks = published(kind, kind.begin(SIZE, 0))
    networks["generator"] = Mistaken(splits.evaluator)
    origin = Training(command="", dataset="digits", steps=0, seed=1, seconds=0, torch="")
    trained = Trained("tiny", "sngan", kind, networks, SIZE, origin, torch.device("cpu"))
    bench = Attempt(uncalibrated(trained).trained, Plan(RatioHead(), "digits", 1), splits.train, lambda: None).bench
    assert set(bench.fakes(600, bench.random(0)).labels.tolist()) == set(range(10))
    torch.manual_seed(0)
    head = kind.build(SIZE)["ratio"]
    assert any(step == 150 for step, _ in train_head(head, bench, lambda step: Disturbance(), bench.random(1), bench.draw))
    right = bench.log_ratios(head, splits.test)
    wrong = bench.log_ratios(head, splits.test._replace(labels=(splits.test.labels - 1) % 10))
    assert (right - wrong).mean() > 4 * (right - wrong).std() / len(right) ** 0.5


def test_a_projection_critic_takes_a_line_into_its_own_weights():
    critic = ProjectionCritic(Critic(8, (1, 8, 8), outputs=11), 10).eval()
    images, classes = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(6)
    with torch.no_grad():
        before = critic(images, classes)
        critic.rescale(-2.5, 0.75)
        assert torch.allclose(critic(images, classes), -2.5 * before + 0.75, atol=1e-5)
