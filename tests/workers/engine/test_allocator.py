"""The worker's allocator keeps what one tick frees for the next, gives it back when asked, and peaks are measured as truly as before."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

REPEATED = """
import resource
import torch
from workers.engine.allocator import give_back_freed, keep_freed

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def call():
    kept = [torch.ones(2 << 20) for _ in range(4)]  # blocks of 8 MiB: as many pages as 32 MiB have, if they are taken anew

assert keep_freed()
for _ in range(5):
    call()
before = faults()
for _ in range(10):
    call()
again = faults() - before
give_back_freed()
before = faults()
call()
print(again, faults() - before)
"""

PEAKS = """
import torch
from workers.engine.allocator import keep_freed
from workers.engine.memory import ProcessMemory

keep_freed()
memory = ProcessMemory()
for mib in (8, 64, 8, 24):
    for _ in range(2):
        print(mib, memory.peak(lambda batch: torch.ones(mib << 18), torch.zeros(1)) / 2**20)
free = memory.free()
torch.ones(6 << 20).sum()  # 24 MiB, freed and kept
print(0, (free - memory.free()) / 2**20)
"""


@pytest.fixture(autouse=True)
def _needs_glibc():
    if not Path("/proc/self/clear_refs").exists() or sys.platform != "linux":
        pytest.skip("only glibc is told, and only Linux tells")


def printed(script: str) -> list[list[float]]:
    """The numbers that a script prints in a process of its own: the setting cannot be taken back."""
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert run.returncode == 0, run.stderr
    return [[float(word) for word in line.split()] for line in run.stdout.splitlines()]


def test_what_a_call_frees_the_next_one_takes_without_asking_the_system_until_it_is_given_back():
    ((again, after),) = printed(REPEATED)
    assert again < 1000 < 4000 < after


def test_a_peak_is_what_a_call_took_also_where_memory_is_kept():
    *peaks, (_, held) = printed(PEAKS)
    assert all(0.9 * mib < peak < mib + 8 for mib, peak in peaks)
    assert held < 16  # MiB, of the whole machine's
