"""The one place that asks which device there is: which to use, how it is set, and what a run on it may do.

Sampling and published measurements are float32 everywhere: TF32 stays off. Bits repeat: deterministic algorithms stay on.
"""

import contextlib
import os

import torch
from torch import Tensor

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a workspace of a fixed size


def resolve(wanted: str) -> torch.device:
    """The device of a name: `cpu`, `cuda`, `cuda:1`, `mps`, or `auto`, the best there is. Raises ValueError where it is not there."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise ValueError(f"unknown device {wanted!r}; choices: auto, cpu, cuda, cuda:<number>, mps") from error
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {wanted!r} cannot be used; choices: auto, cpu, cuda, cuda:<number>, mps")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {wanted!r} is not here: torch sees {torch.cuda.device_count()} CUDA devices")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not here")
    return device


def settle(device: torch.device, threads: int) -> None:
    """Sets this process up to compute on a device: threads, float32 without TF32, deterministic algorithms. To be called once, first."""
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if device.type != "cpu":  # on the CPU they are the only ones
        os.environ.setdefault(*WORKSPACE)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def multiplies_bfloat16_faster(device: torch.device) -> bool:
    """Whether a training run may use bfloat16: whether the device multiplies it faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def bfloat16(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which networks multiply in bfloat16, where that is faster; elsewhere one that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if multiplies_bfloat16_faster(device) else contextlib.nullcontext()


def is_home_to_onednn(device: torch.device) -> bool:
    """Whether it is a processor that oneDNN, torch's library of CPU operators, is made for."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def name_of(device: torch.device) -> str:
    """`cpu`, or the GPU's name as torch tells it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def instructions_of(device: torch.device) -> str | None:
    """The vector instructions torch uses on the CPU; None on any other device."""
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else None


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all it was asked to do, so that a clock read afterwards is right."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host's on a device; the host goes on at once where the driver keeps a copy of what it sends."""
    return tensor.to(device, non_blocking=device.type == "cuda")


def read(tensor: Tensor) -> Tensor:
    """A tensor's numbers on the host: the one call that makes the host wait for the device while chains run."""
    return tensor.cpu()
