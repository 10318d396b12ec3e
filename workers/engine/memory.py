"""How much memory is free, and how much a call takes at its peak, where the platform reports that."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from models.device import memory_of as device_memory
from workers.engine.allocator import give_back_freed

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

    def __init__(self, proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> None:
        self._proc, self._groups = proc, groups

    def free(self) -> int | None:
        give_back_freed()  # memory that the allocator only keeps is free
        try:
            available = _fields(self._proc / "meminfo")["MemAvailable:"] * 1024
            return max(0, min([available, *self._left_in_groups()]))
        except (OSError, KeyError):
            return None

    def _left_in_groups(self) -> Iterator[int]:
        """Of each group around this process that has a limit (version 2); files it has cached make room when asked to."""
        lines = (self._proc / "self/cgroup").read_text().splitlines()
        own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
        for group in (self._groups / own, *(self._groups / own).parents):
            if group.is_relative_to(self._groups) and (group / "memory.max").is_file():
                limit = (group / "memory.max").read_text().strip()
                if limit != "max":
                    cached = _fields(group / "memory.stat")["inactive_file"]
                    yield int(limit) - int((group / "memory.current").read_text()) + cached

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
        return _fields(self._proc / "self/status")[name] * 1024


def _fields(file: Path) -> dict[str, int]:
    """The numbers of a file of lines `name number ...`."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}
