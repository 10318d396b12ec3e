"""Single training steps on joint batches, by one process or by those that `torchrun` starts; the first one writes what came of each."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from models import device, joint
from models.families import family
from models.families.base import Size

SIZE = Size(image_shape=(1, 8, 8), latent_size=6, width=8, classes=10)
BATCH = 8


def step(name: str, options: dict[str, object]) -> dict[str, Tensor]:
    """First moments of Adam after one step, which are multiples of the gradients, and BatchNorm's running statistics."""
    kind = family(name, options)
    state, random = kind.begin(SIZE, 1), torch.Generator().manual_seed(3)
    rows = kind.batches_per_step * BATCH
    images = torch.rand(rows, *SIZE.image_shape, generator=random) * 2 - 1
    labels = torch.randint(10, (rows,), generator=random)
    kind.train_step(state, joint.own(images, kind.batches_per_step), joint.own(labels, kind.batches_per_step))
    found = {name: buffer for name, buffer in state.networks.named_buffers() if "running_" in name}
    for owner, optimizer in state.optimizers.items():
        moments = [values["exp_avg"].flatten() for values in optimizer.state.values()]
        found[f"gradient/{owner}"] = torch.cat(moments)
    return found


def exactly() -> None:
    """Has this process train in float32 whatever its CPU can do."""
    device.multiplies_bfloat16_faster = lambda where: False


if __name__ == "__main__":
    exactly()
    torch.set_num_threads(1)
    joint.begin(torch.device("cpu"))
    assert joint.ranks() == 2
    cases, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    for case, (name, options) in cases.items():
        found = step(name, options)
        if joint.rank() == 0:
            save_file(found, folder / case)
    assert joint.agreed([joint.rank()]) == [0]
    joint.end()
    assert joint.ranks() == 1
