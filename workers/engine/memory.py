"""How much memory is free, and how much a call takes at its peak, where the platform reports that."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from models.device import memory_of as device_memory
from workers.engine.allocator import give_back_freed
from workers.room import GROUPS, PROC, free_memory, numbers

PEAK = "5"  # written to /proc/self/clear_refs, starts VmHWM anew: man 5 proc


class Memory(Protocol):
    """Memory that can be measured."""

    def free(self) -> int | None:
        """Bytes that may still be taken; None where that is unknown."""
        ...

    def peak(self, call: Callable[[Tensor], object], batch: Tensor) -> int:
        """Makes a call on a batch; the most bytes it held beyond those held before, 0 where that is unknown."""
        ...


def memory_of(device: torch.device) -> Memory:
    """The memory that tensors of a device are in."""
    return device_memory(device) or ProcessMemory()


class ProcessMemory:
    """The memory of this process on Linux: what the machine and the control groups have left, and the growth of the resident set."""

    def __init__(self, proc: Path = PROC, groups: Path = GROUPS) -> None:
        self._proc, self._groups = proc, groups

    def free(self) -> int | None:
        give_back_freed()  # memory that the allocator only keeps is free
        return free_memory(self._proc, self._groups)

    def peak(self, call: Callable[[Tensor], object], batch: Tensor) -> int:
        give_back_freed()  # a call that takes kept memory again would seem to take none
        try:
            (self._proc / "self/clear_refs").write_text(PEAK)
            before = self._status("VmRSS:")
        except (OSError, KeyError):
            call(batch)
            return 0
        call(batch)
        return max(0, self._status("VmHWM:") - before)

    def _status(self, name: str) -> int:
        return numbers(self._proc / "self/status")[name] * 1024
