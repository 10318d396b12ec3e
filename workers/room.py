"""What is left of this machine's memory and disks, and what Ebbtide's own folders hold."""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PROC, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
COUNT_EVERY_S = 60.0  # reading the size of each file takes long in large folders


def free_memory(proc: Path = PROC, groups: Path = GROUPS) -> int | None:
    """Bytes that the machine and the control groups around this process leave; None where the platform does not tell."""
    try:
        available = numbers(proc / "meminfo")["MemAvailable:"] * 1024
        return max(0, min([available, *_left_in_groups(proc, groups)]))
    except (OSError, KeyError):
        return None


def _left_in_groups(proc: Path, groups: Path) -> Iterator[int]:
    """Of each group that has a limit (version 2); files it has cached make room when asked to."""
    lines = (proc / "self/cgroup").read_text().splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    for group in (groups / own, *(groups / own).parents):
        if group.is_relative_to(groups) and (group / "memory.max").is_file():
            limit = (group / "memory.max").read_text().strip()
            if limit != "max":
                cached = numbers(group / "memory.stat")["inactive_file"]
                yield int(limit) - int((group / "memory.current").read_text()) + cached


def numbers(file: Path) -> dict[str, int]:
    """The numbers of a file of lines `name number ...`."""
    lines = [line.split() for line in file.read_text().splitlines()]
    return {words[0]: int(words[1]) for words in lines if len(words) > 1 and words[1].isdecimal()}


def held(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    total = 0
    for here, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(here, name)).st_size
            except FileNotFoundError:  # it was just deleted
                continue
    return total


class RoomCollector(Collector):
    """Exports free memory and, for folders by name, what they hold and what their disk has left.

    A scrape counts what they hold where `counting`; elsewhere somebody has to call `look`.
    """

    def __init__(self, folders: Mapping[str, Path], *, counting: bool = False) -> None:
        self._folders, self._counting = folders, counting
        self._held: dict[str, int] = {}
        self._counted_at: float | None = None

    def look(self) -> None:
        """Counts what the folders hold, once a minute; it may take a while."""
        if self._counted_at is None or time.monotonic() - self._counted_at > COUNT_EVERY_S:
            self._held = {name: held(folder) for name, folder in self._folders.items()}
            self._counted_at = time.monotonic()

    def collect(self) -> Iterator[Metric]:
        if self._counting:
            self.look()
        memory = GaugeMetricFamily("ebbtide_memory_free_bytes", "What the machine and the container leave to this process")
        if (left := free_memory()) is not None:
            memory.add_metric([], left)
        free = GaugeMetricFamily("ebbtide_disk_free_bytes", "What is left of the disk of a folder", labels=["folder"])
        size = GaugeMetricFamily("ebbtide_disk_bytes", "The size of that disk", labels=["folder"])
        kept = GaugeMetricFamily("ebbtide_folder_bytes", "What the files of a folder hold", labels=["folder"])
        for name, folder in self._folders.items():
            if (disk := _disk(folder)) is not None:
                free.add_metric([name], disk[0])
                size.add_metric([name], disk[1])
            if name in self._held:
                kept.add_metric([name], self._held[name])
        yield from (memory, free, size, kept)


def _disk(folder: Path) -> tuple[int, int] | None:
    """Free bytes and size of the disk that a folder is on, or will be."""
    for place in (folder, *folder.absolute().parents):
        try:
            usage = shutil.disk_usage(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
        return usage.free, usage.total
    return None
