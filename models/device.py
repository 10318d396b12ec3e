"""The one place that asks which device there is: which to use, how it is set, and what a run on it may do.

Sampling and published measurements are float32 everywhere: TF32 stays off. Bits repeat: deterministic algorithms stay on.
"""

import os
from collections.abc import Callable

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


def name_of(device: torch.device) -> str:
    """`cpu`, or the GPU's name as torch reports it."""
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


def put(numbers: object, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers of the host, in lists or an array, as a tensor on a device; the host does not wait for the device."""
    there = torch.tensor(numbers, dtype=dtype)
    if device.type == "cuda":  # only pinned memory is copied without waiting
        there = there.pin_memory()
    return there.to(device, non_blocking=True)


def read(tensor: Tensor) -> Tensor:
    """A tensor's numbers on the host: the one call that makes the host wait for the device while chains run."""
    return tensor.cpu()


class DeviceMemory:
    """A GPU's own memory, as torch and the driver report it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        """Bytes that may still be taken."""
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return torch.cuda.mem_get_info(self._device)[0] + unused

    def peak(self, call: Callable[[Tensor], object], batch: Tensor) -> int:
        """Makes a call on a batch; the most bytes it held beyond those held before."""
        before = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        call(batch)
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device) - before


def memory_of(device: torch.device) -> DeviceMemory | None:
    """The device's own memory; None where it uses the host's."""
    return DeviceMemory(device) if device.type == "cuda" else None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether memory ran out, on a device or on the host; the CPU's allocator has no class of its own for that."""
    return isinstance(error, torch.OutOfMemoryError) or "DefaultCPUAllocator" in str(error)


def release_memory() -> None:
    """Gives memory back that torch keeps on devices for later use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
