"""The operators of a tick are as many for a few chains as for many, and for one setting as for a mix."""

from collections import Counter

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from models.checkpoints import Store
from models.inference.prepared import load
from models.kernels import KERNELS
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import measured_lane
from workers.engine.chain_group import TICKS_AHEAD
from workers.engine.chains import Chain

MIXES = {
    "one setting": [{}],
    "a mix": [{"temperature": 0.5}, {"step_size": 0.01}, {"step_size": 0.2, "temperature": 2.0}],
}
LENGTHS = {"langevin": {}, "mala": {}, "hmc": {"leapfrog_steps": 2}, "local-global": {"mala_steps": 2}}


class Operators(TorchDispatchMode):
    """Counts what torch is asked to do."""

    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen[str(function)] += 1
        return function(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("checkpoints"))
    publish_tiny(store, "sngan", "gan")
    return load(store, store.card("gan"), torch.device("cpu"))


def counted(prepared, kernel, chains, mix):
    """Operators of each tick, from the second on, of chains that all begin together and pad one batch."""
    lane = measured_lane(prepared, "ddls", 128)
    for size in set(lane.table.seconds) - {128}:
        del lane.table.seconds[size]
    settings = [mix[number % len(mix)] | ({} if number % 2 else LENGTHS[kernel]) for number in range(chains)]
    lane.start([Chain("job", number, 3, KERNELS[kernel](steps=50, **one)) for number, one in enumerate(settings)])
    lane.tick()
    ticks = []
    for _ in range(TICKS_AHEAD + 4):
        with Operators() as operators:
            lane.tick()
        ticks.append(operators.seen)
    return ticks


@pytest.mark.parametrize("kernel", KERNELS)
def test_operators_of_a_tick_do_not_depend_on_chains_nor_on_settings(prepared, kernel):
    few, many = counted(prepared, kernel, 2, MIXES["one setting"]), counted(prepared, kernel, 11, MIXES["one setting"])
    mixed = counted(prepared, kernel, 11, MIXES["a mix"])
    assert few == many == mixed
    assert sum(few[1].values()) < 250
    assert few[1] == few[2] == few[5]
