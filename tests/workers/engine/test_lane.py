"""A lane: chains that bring data of their own share its calls with all others."""

import pytest
import torch

from models.checkpoints import Store
from models.inference.prepared import load
from models.kernels import KERNELS
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import measured_lane
from workers.engine.chains import Chain


@pytest.mark.parametrize("kernel", KERNELS)
def test_chains_that_bring_an_image_keep_it_whatever_their_kernel_and_neighbours(tmp_path, kernel):
    store = Store(tmp_path)
    publish_tiny(store, "lebm", "ebm")
    prepared = load(store, store.card("ebm"), torch.device("cpu"))
    images = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def chain(row, name, steps):
        return Chain(str(row), row, 5, KERNELS[name](steps=steps, step_size=0.02), data=images[row])

    def run_lane(*chains):
        lane, ended = measured_lane(prepared, "posterior", 16), {}
        lane.start(list(chains))
        while not lane.idle:
            lane.tick()
            ended |= {one.chain.index: one.z for group in lane.groups for one in group.leave(group.ended)}
        return ended

    others = [chain(row, name, 3 + row) for row, name in enumerate(sorted(KERNELS))]
    together, alone = run_lane(*others, chain(5, kernel, 8)), run_lane(chain(5, kernel, 8))
    assert torch.equal(together[5], alone[5])
    swapped = run_lane(Chain("5", 5, 5, KERNELS[kernel](steps=8, step_size=0.02), data=images[0]))
    assert not torch.equal(swapped[5], alone[5])
