"""`python -m tests.models.peak_memory FAMILY SIDE WIDTH LATENT BATCH` trains and chains a little; it prints its peak of memory in bytes."""

import re
import sys
from pathlib import Path

import torch

from models.estimates import CHUNK
from models.families import family
from models.families.base import Size, published, spaces
from models.targets.base import evaluate


def main(name: str, side: int, width: int, latent: int, batch: int) -> None:
    kind, size = family(name), Size(image_shape=(1, side, side), latent_size=latent, width=width, classes=10)
    state = kind.begin(size, 0)
    rows = batch * kind.batches_per_step
    images, labels = torch.rand(rows, *size.image_shape) * 2 - 1, torch.arange(rows) % 10
    for _ in range(2):  # the second step finds optimisers with moments
        kind.train_step(state, images, labels)
    networks = published(kind, state)
    found, targets = spaces(kind, networks, size), kind.targets(networks)
    for sampler, kernel in kind.samplers().items():
        points = found[sampler].start(torch.randn(CHUNK, *found["prior"].shape))
        if kernel:
            evaluate(targets[sampler], points)
        found[sampler].decode(points)
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert peak
    print(int(peak[1]) << 10)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], *map(int, sys.argv[2:]))
