"""The only file that asks which devices this machine has; it sets a process up for one and says what the device can do.

Sampling and published measurements are float32 on every device, so TF32 is off. Results repeat, so deterministic algorithms are on.
`python -m models.device [name]` prints the device of that name, or without one all that torch sees, for processes that must not load torch.
"""

import contextlib
import os
import sys
from collections.abc import Callable

import torch
from torch import Tensor

WORKSPACE = ("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with a workspace of a fixed size


def choices() -> list[str]:
    """The devices torch sees here, such as `cpu`, `cuda:0`, `cuda:1`, `mps`."""
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return ["cpu", *(f"cuda:{index}" for index in range(gpus)), *mps]


def resolve(wanted: str, process: int = 0) -> torch.device:
    """The device of that name: one of `choices()`, `cuda` for a GPU, or `auto` for a GPU or else the CPU.

    Of several processes that train together, each has the GPU of its own number; any other process has the first.

    Raises ValueError if it is not here. It may start CUDA, and a process forked afterwards could use no GPU.
    """
    here = choices()
    gpu = f"cuda:{process}"
    name = gpu if wanted == "cuda" or (wanted == "auto" and "cuda:0" in here) else "cpu" if wanted == "auto" else wanted
    if name not in here:
        raise ValueError(f"EBBTIDE_DEVICE={wanted!r}: torch sees no such device here; choices: auto, {', '.join(here)}")
    return torch.device(name)


def settle(device: torch.device, threads: int) -> None:
    """Sets this process up to compute on a device: threads, float32 without TF32, deterministic algorithms. Call it once, first.

    An operation that has no deterministic algorithm on the device warns and runs.
    """
    set_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    if device.type != "cpu":  # on the CPU all algorithms are deterministic
        os.environ.setdefault(*WORKSPACE)
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def set_threads(threads: int) -> None:
    """Threads that the calling thread's operations on the CPU use from now on; results do not depend on them."""
    torch.set_num_threads(threads)


def multiplies_bfloat16_faster(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than float32; then a training run may use it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return device.type == "cpu" and bool(torch.cpu._is_amx_tile_supported())


def bfloat16(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context in which networks multiply in bfloat16, where that is faster; elsewhere one that changes nothing."""
    return torch.autocast(device.type, torch.bfloat16) if multiplies_bfloat16_faster(device) else contextlib.nullcontext()


def is_cpu(device: torch.device) -> bool:
    """Whether what was measured on CPUs applies."""
    return device.type == "cpu"


def is_home_to_onednn(device: torch.device) -> bool:
    """Whether it is a processor that oneDNN, torch's library of CPU operators, is made for."""
    return device.type == "cpu" and torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX")


def name_of(device: torch.device) -> str:
    """`cpu`, or the name of the GPU, such as `NVIDIA H100 80GB HBM3`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def instructions_of(device: torch.device) -> str | None:
    """The vector instructions torch uses on the CPU, such as `AVX512`; None on any other device."""
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else None


def wait_for(device: torch.device) -> None:
    """Waits until the device has finished its queue; call it before reading a clock."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the host on a device; the host does not wait for the device."""
    if device.type == "cuda":  # only pinned memory is copied without waiting
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type == "cuda")


def put(numbers: object, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Numbers of the host, in lists or an array, as a tensor on a device; the host does not wait for the device."""
    return send(torch.tensor(numbers, dtype=dtype), device)


def read(tensor: Tensor) -> Tensor:
    """Copies a tensor to the host. While chains run, no other call makes the host wait for the device."""
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


def main(arguments: list[str]) -> None:
    """Prints devices, one a line; a name of a device that is not here ends with exit code 1 and the reason."""
    try:
        print(*([resolve(arguments[0])] if arguments else choices()), sep="\n")
    except ValueError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main(sys.argv[1:])
