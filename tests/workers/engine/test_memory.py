"""Memory as the platform tells it: a call's peak is what it took, and what is free is what the tightest limit leaves."""

import os
from pathlib import Path

import pytest
import torch

from models.device import DeviceMemory
from workers.engine.memory import ProcessMemory, memory_of

MIB = 1 << 20
NOTHING = torch.zeros(1)


def needs_proc() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("only Linux tells of peaks")


def test_a_peak_is_what_a_call_took_even_if_it_took_that_before_and_gave_it_back():
    needs_proc()
    memory = ProcessMemory()
    for mib in (8, 64, 8):
        for _ in range(3):
            assert 0.9 * mib * MIB < memory.peak(lambda batch, mib=mib: torch.ones(mib * MIB // 4), NOTHING) < (mib + 8) * MIB


def test_what_is_held_already_is_no_part_of_a_peak():
    needs_proc()
    held = torch.ones(64 * MIB // 4)
    assert ProcessMemory().peak(lambda batch: batch + 1, NOTHING) < 8 * MIB
    assert held.sum() > 0


def test_some_of_this_machine_is_free():
    needs_proc()
    assert 0 < ProcessMemory().free() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def machine(tmp_path):
    """A machine of 1,000 MiB, where this process's group stands in another; returns its memory and the folders of both."""
    inner = tmp_path / "groups" / "pod" / "box"
    inner.mkdir(parents=True)
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 2048000 kB\nMemAvailable: 1024000 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("4:memory:/old\n0::/pod/box\n")
    return ProcessMemory(tmp_path / "proc", tmp_path / "groups"), inner.parent, inner


def limit(group, most, current, cached=0):
    (group / "memory.max").write_text(f"{most}\n")
    (group / "memory.current").write_text(f"{current}\n")
    (group / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_without_limits_all_that_the_machine_has_is_free(machine):
    memory, outer, inner = machine
    limit(inner, "max", 5)
    assert memory.free() == 1000 * MIB


def test_the_tightest_group_decides(machine):
    memory, outer, inner = machine
    limit(inner, 500 * MIB, 100 * MIB)
    assert memory.free() == 400 * MIB
    limit(outer, 600 * MIB, 550 * MIB, cached=30 * MIB)
    assert memory.free() == 80 * MIB
    limit(outer, 600 * MIB, 601 * MIB)
    assert memory.free() == 0


def test_a_platform_that_does_not_tell_is_not_guessed_at(tmp_path):
    memory, called = ProcessMemory(tmp_path, tmp_path), []
    assert memory.free() is None
    assert memory.peak(called.append, NOTHING) == 0
    assert called == [NOTHING]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_tells_the_same():
    memory = memory_of(torch.device("cuda"))
    assert isinstance(memory, DeviceMemory)
    before, batch = memory.free(), torch.zeros(1, device="cuda")
    assert memory.peak(lambda batch: batch.new_zeros(64 * MIB // 4), batch) == 64 * MIB
    held = batch.new_zeros(512 * MIB // 4)
    assert before - memory.free() >= held.nbytes
