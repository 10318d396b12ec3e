"""What an extractor is: a network from images to features, and to log-probabilities of classes where its data has them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.datasets import Split
from models.descent import descend

FEATURES = 128
SEEN = 48_000  # images that a fit looks at, counted with repetition
FEWEST_ROUNDS, MOST_ROUNDS = 6, 20
BATCH = 64
PEAK_RATE = 3e-3


class Extractor(nn.Module):
    """Images in [-1, 1], (rows, channels, height, width), to features, (rows, num_features)."""

    num_features: int = FEATURES
    classes: int = 0  # that `log_probabilities` tells apart; 0 where there are none
    gain: Tensor  # ()

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * self.embed(images)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Log-probabilities of the classes, (rows, classes), of features. Raises ValueError where the data has no classes."""
        return self.classify(features / self.gain)

    def embed(self, images: Tensor) -> Tensor:
        """Features before `gain`."""
        raise NotImplementedError

    def classify(self, embedded: Tensor) -> Tensor:
        """Log-probabilities of the classes, (rows, classes), of features before `gain`."""
        raise ValueError(f"{type(self).__name__} knows no classes")

    def scale(self, images: Tensor) -> None:
        """Sets `gain` so that the variances of the features of these images average to 1: then figures of extractors are of one size."""
        self.eval()
        with torch.no_grad():
            embedded = torch.cat([self.embed(part) for part in images.split(500)])
        self.gain = embedded.var(0).mean().rsqrt()


class Classifier(Extractor):
    """`body` makes features of images, a linear layer the classes of features."""

    def __init__(self, body: nn.Module, classes: int) -> None:
        super().__init__()
        self.body, self.classes = body, classes
        self.head = nn.Linear(FEATURES, classes)

    def embed(self, images: Tensor) -> Tensor:
        features: Tensor = self.body(images)
        return features

    def classify(self, embedded: Tensor) -> Tensor:
        return F.log_softmax(self.head(embedded), dim=1)


def fit_classifier(build: Callable[[], nn.Module], split: Split, rounds: int, *, seed: int) -> Classifier:
    """A classifier on shifted images by cross-entropy, in so many rounds over the split; `build` makes its body."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Classifier(build(), int(split.labels.max()) + 1)
        descend_on(network, split.images, rounds, lambda rows, images: -_of_true_class(network, images, split.labels[rows]).mean())
    network.scale(split.images)
    return network


def rounds_over(images: Tensor, *, times: int = 1) -> int:
    """How often a fit goes over the images; a cheap one may look `times` as often."""
    return times * min(max(SEEN // len(images), FEWEST_ROUNDS), MOST_ROUNDS)


def descend_on(network: nn.Module, images: Tensor, rounds: int, loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    """AdamW under a one-cycle rate (Smith & Topin 2017) down `loss` of rows, (batch,), and their shifted images."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=1e-2)
    batch = min(BATCH, len(images))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=rounds * (len(images) // batch) + 1)
    for _ in range(rounds):
        for rows in torch.randperm(len(images))[: len(images) // batch * batch].split(batch):
            descend(optimizer, loss(rows, shifted(images[rows])))
            schedule.step()


def shifted(images: Tensor) -> Tensor:
    """Each image moved by up to a pixel in 28 in both directions, a pixel at least; what comes in is -1."""
    rows, channels, height, width = images.shape
    most = max(height // 28, 1)
    padded = F.pad(images, (most,) * 4, value=-1.0)
    down, right = torch.randint(2 * most + 1, (2, rows, 1, 1))
    lines, columns = (down + torch.arange(height).reshape(-1, 1)).unsqueeze(1), (right + torch.arange(width)).unsqueeze(1)
    return padded[torch.arange(rows).reshape(-1, 1, 1, 1), torch.arange(channels).reshape(-1, 1, 1), lines, columns]


def _of_true_class(network: Classifier, images: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of each image's class, (rows,)."""
    return network.log_probabilities(network(images)).gather(1, labels.unsqueeze(1)).squeeze(1)
