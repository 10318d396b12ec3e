"""Devices are found by name, refused with the choices, and set up for float32 that repeats."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from models import device

ROOT = Path(__file__).parents[2]
NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="here is a GPU")


def test_the_cpu_is_always_there():
    assert device.resolve("cpu") == torch.device("cpu")
    assert device.choices()[0] == "cpu"
    assert device.name_of(torch.device("cpu")) == "cpu"
    assert device.instructions_of(torch.device("cpu"))


@NO_GPU
def test_auto_is_the_cpu_where_there_is_no_gpu():
    assert device.resolve("auto") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:97", "gpu", "meta", "cpu:1", ""])
def test_a_device_that_is_not_here_is_refused_by_setting_value_and_choices(name):
    with pytest.raises(ValueError, match="EBBTIDE_DEVICE") as refused:
        device.resolve(name)
    assert repr(name) in str(refused.value)
    assert ", ".join(["auto", *device.choices()]) in str(refused.value)


def test_gpus_have_numbers_and_the_first_is_the_default(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert device.choices()[:3] == ["cpu", "cuda:0", "cuda:1"]
    assert device.resolve("auto") == device.resolve("cuda") == torch.device("cuda:0")
    assert device.resolve("cuda:1") == torch.device("cuda:1")
    assert device.resolve("cpu") == torch.device("cpu")


def settled(name: str) -> dict[str, object]:
    """The flags of a new process after it was set up for a device, which need not be here."""
    script = f"""
import json, os, torch
from models import device
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.benchmark = True
device.settle(torch.device({name!r}), 1)
print(json.dumps({{
    "threads": torch.get_num_threads(),
    "tf32": torch.backends.cuda.matmul.allow_tf32 or torch.backends.cudnn.allow_tf32,
    "benchmark": torch.backends.cudnn.benchmark,
    "deterministic": torch.are_deterministic_algorithms_enabled(),
    "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    "started": torch.cuda.is_initialized(),
}}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return dict(json.loads(done.stdout))


def test_a_gpu_is_set_up_for_float32_that_repeats_before_cuda_starts():
    expected = {"threads": 1, "tf32": False, "benchmark": False, "deterministic": True, "workspace": ":4096:8", "started": False}
    assert settled("cuda:0") == expected


def test_the_cpu_keeps_its_algorithms():
    expected = {"threads": 1, "tf32": False, "benchmark": False, "deterministic": False, "workspace": None, "started": False}
    assert settled("cpu") == expected


def test_processes_without_torch_may_ask():
    def asked(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "models.device", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60)

    assert asked().stdout.split() == device.choices()
    assert asked("cpu").stdout == "cpu\n"
    refused = asked("cuda:97")
    assert refused.returncode == 1
    assert refused.stderr.startswith("EBBTIDE_DEVICE='cuda:97'")
    assert "Traceback" not in refused.stderr
