"""Only batch sizes that memory has room for and that give the same bits are used: a network that breaks the rule is caught."""

import time

import pytest
import torch
from torch import Tensor

from tests.workers.engine.engines import at_once
from workers.engine.buckets import CANDIDATES, agreeing

ROWS = torch.randn(67, 6, generator=torch.Generator().manual_seed(0))


def honest(z: Tensor) -> tuple[Tensor, ...]:
    return z.square().sum(1), 2 * z


def test_sizes_up_to_capacity_are_kept_where_rows_are_independent():
    table = at_once(agreeing(honest, ROWS, 64))
    assert tuple(table.seconds) == tuple(size for size in CANDIDATES if size <= 64)
    assert all(seconds > 0 for seconds in table.seconds.values())


def test_a_network_that_sees_its_batch_is_left_one_size():
    def coupled(z: Tensor) -> tuple[Tensor, ...]:  # as BatchNorm in training mode does
        return ((z - z.mean(0)).square().sum(1),)

    assert tuple(at_once(agreeing(coupled, ROWS, 64)).seconds) == (64,)


def test_workers_of_different_capacity_measure_against_the_same_size():
    def two_kinds(z: Tensor) -> tuple[Tensor, ...]:  # large batches take another path, as matrix libraries do
        energy = z.square().sum(1)
        return (torch.nextafter(energy, energy + 1) if len(z) > 64 else energy,)

    large, small = at_once(agreeing(two_kinds, ROWS, 256)), at_once(agreeing(two_kinds, ROWS, 64))
    assert max(large.seconds) == max(small.seconds) == 64
    assert large.reference == small.reference == 64


def test_a_size_whose_last_bit_differs_is_left_out():
    def rounds_at_sixteen(z: Tensor) -> tuple[Tensor, ...]:
        energy = z.square().sum(1)
        return (torch.nextafter(energy, energy + 1) if len(z) == 16 else energy,)

    assert 16 not in at_once(agreeing(rounds_at_sixteen, ROWS, 64)).seconds


def test_a_size_where_one_slot_differs_is_left_out():
    def odd_tail(z: Tensor) -> tuple[Tensor, ...]:
        energy = z.square().sum(1)
        if len(z) == 8:
            energy[-1] = torch.nextafter(energy[-1], energy[-1] + 1)
        return (energy,)

    kept = at_once(agreeing(odd_tail, ROWS, 64)).seconds
    assert 8 not in kept
    assert 16 in kept


def test_a_network_whose_odd_rows_differ_is_left_one_size_and_the_log_says_so(caplog):
    def by_pairs(z: Tensor) -> tuple[Tensor, ...]:  # as matrix libraries do with few columns
        energy = z.square().sum(1)
        energy[1::2] = torch.nextafter(energy[1::2], energy[1::2] + 1)
        return (energy,)

    table = at_once(agreeing(by_pairs, ROWS, 64))
    assert tuple(table.seconds) == (64,)
    assert not table.reproducible
    assert at_once(agreeing(lambda z: (z.square().sum(1),), ROWS, 64)).reproducible
    assert "may depend on its neighbours" in caplog.text


class Rows:
    """Memory of which a row takes a byte; remembers what was tried."""

    def __init__(self, free: int | None) -> None:
        self._free, self.tried = free, []

    def free(self) -> int | None:
        return self._free

    def peak(self, call, batch: Tensor) -> int:
        call(batch)
        self.tried.append(len(batch))
        return len(batch)


@pytest.mark.parametrize(("free", "largest"), [(10_000, 64), (80, 64), (79, 48), (40, 32), (5, 4), (0, 4)])
def test_sizes_that_four_fifths_of_what_is_free_cannot_hold_are_never_tried(free, largest):
    memory, seen = Rows(free), []

    def watched(z: Tensor) -> tuple[Tensor, ...]:
        seen.append(len(z))
        return honest(z)

    table = at_once(agreeing(watched, ROWS, 64, memory))
    assert max(seen) == max(memory.tried) == max(table.seconds) == table.reference == table.capacity == largest
    assert table.bytes == {size: size for size in table.seconds}


def test_a_size_that_takes_more_than_foreseen_is_not_kept():
    class Cliff(Rows):
        def peak(self, call, batch: Tensor) -> int:
            rows = super().peak(call, batch)
            return rows if rows < 32 else 1000 * rows

    assert max(at_once(agreeing(honest, ROWS, 64, Cliff(500))).seconds) == 24


def test_memory_that_nobody_tells_of_bounds_nothing():
    table = at_once(agreeing(honest, ROWS, 100, Rows(None)))
    assert (max(table.seconds), table.capacity) == (96, 100)


def test_a_capacity_is_not_bounded_by_what_does_not_agree():
    def rounds_from_sixteen(z: Tensor) -> tuple[Tensor, ...]:
        energy = z.square().sum(1)
        return (torch.nextafter(energy, energy + 1) if 16 <= len(z) < 64 else energy,)

    table = at_once(agreeing(rounds_from_sixteen, ROWS, 64, Rows(10_000)))
    assert (tuple(table.seconds), table.capacity) == ((4, 8, 12, 64), 64)


class Clock:
    """Moves on by what an evaluation costs, and by nothing else."""

    def __init__(self, monkeypatch, cost):
        self.now, self.cost, self.tried = 0.0, cost, []
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def __call__(self, z: Tensor) -> tuple[Tensor, ...]:
        self.now += self.cost(len(z))
        self.tried.append(len(z))
        return honest(z)


@pytest.mark.parametrize(("gains_up_to", "largest"), [(100, 256), (512, 512), (4096, 4096)])
def test_large_sizes_are_used_while_they_make_a_row_cheaper(monkeypatch, gains_up_to, largest):
    evaluate = Clock(monkeypatch, lambda rows: max(rows, gains_up_to))
    table = at_once(agreeing(evaluate, ROWS, 4096, Rows(None)))
    assert tuple(table.seconds) == tuple(size for size in CANDIDATES if size <= largest)
    assert (table.reference, table.capacity) == (64, 4096)
    assert max(evaluate.tried) <= largest * 1.5
    assert len(evaluate.tried) < 4 * len(CANDIDATES) + 2 * 64 // 4


def test_candidates_reach_the_largest_capacity_in_steps_of_half_at_most():
    assert CANDIDATES[-1] == 4096
    assert all(above <= 1.5 * below for below, above in zip(CANDIDATES[2:], CANDIDATES[3:], strict=False))
    assert [size for size in CANDIDATES if size <= 64] == [4, 8, 12, 16, 24, 32, 48, 64]
