"""Two real processes have the gradients and the statistics of one process on the joint batch; alone nothing changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models import device, joint
from models.networks.joint_batch_norm import JointBatchNorm, share_batch_norm
from tests.models.joint_step import step

ROOT = Path(__file__).parents[2]


CASES = {
    "sngan": ("sngan", {"critic_steps": 2}),
    "conditional": ("sngan", {"conditional": True, "loss": "hinge"}),
    "dcgan": ("dcgan", {}),
    "wgan-gp": ("wgan-gp", {}),
    "ebgan": ("ebgan", {"pulling_away": 10.0}),
    "vae": ("vae", {}),
    "lebm": ("lebm", {}),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The folder with what two processes found in each case."""
    folder = tmp_path_factory.mktemp("joint")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.models.joint_step"]
    ran = subprocess.run([*launch, json.dumps(CASES), str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert ran.returncode == 0, ran.stderr
    return folder


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_two_processes_have_the_gradients_of_one_on_the_joint_batch(case, written, monkeypatch):
    monkeypatch.setattr(device, "multiplies_bfloat16_faster", lambda where: False)
    expected, found = step(*CASES[case]), load_file(written / case)
    assert set(found) == set(expected)
    for key, values in expected.items():
        assert values.abs().max() > 0, key
        assert (found[key] - values).abs().max() <= 1e-5 * values.abs().max(), key


def test_alone_nothing_is_shared():
    values = torch.arange(12.0).reshape(6, 2).requires_grad_()
    assert joint.ranks() == 1
    assert joint.own(values, 3) is joint.mean(values) is joint.gathered(values) is values
    assert joint.agreed([2.5, True]) == [2.5, 1.0]


@pytest.mark.parametrize(("plain", "shape"), [(nn.BatchNorm1d(3), (8, 3)), (nn.BatchNorm2d(3), (8, 3, 4, 5))])
def test_a_joint_batch_norm_of_one_process_is_the_plain_one(plain, shape):
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        plain.weight.copy_(torch.rand(3, generator=random) + 0.5)
        plain.bias.copy_(torch.rand(3, generator=random))
    networks = nn.Sequential(nn.Identity(), nn.Sequential(nn.BatchNorm1d(3) if len(shape) == 2 else nn.BatchNorm2d(3)))
    networks[1][0].load_state_dict(plain.state_dict())
    share_batch_norm(networks)
    shared = networks[1][0]
    assert isinstance(shared, JointBatchNorm)
    for training in (True, True, False):
        plain.train(training)
        networks.train(training)
        inputs = torch.randn(shape, generator=random).mul(3).add(1)
        first, second = inputs.clone().requires_grad_(), inputs.clone().requires_grad_()
        weights = torch.randn(shape, generator=random)
        expected, found = plain(first), networks(second)
        assert torch.allclose(found, expected, atol=1e-5)
        (expected * weights).sum().backward()
        (found * weights).sum().backward()
        assert torch.allclose(first.grad, second.grad, atol=1e-4)
    for key, value in plain.state_dict().items():
        assert torch.allclose(shared.state_dict()[key], value, atol=1e-5), key
