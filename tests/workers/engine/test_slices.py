"""Work done a slice at a time takes as long as it is given, or one slice."""

import time

import pytest

from workers.engine.slices import UnderWay


class Clock:
    """Moves when it is told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", clock := Clock())
    return clock


def work(clock, costs, done):
    for cost in costs:
        clock.now += cost
        done.append(cost)
        yield
    return sum(costs)


@pytest.mark.parametrize(
    ("costs", "budget_s", "slices"),
    [
        ([5, 5, 5], 0, [1, 1, 1]),  # at least one, or it would never end
        ([5, 5, 5], 9, [1, 1, 1]),
        ([5, 5, 5], 10, [2, 1]),
        ([1, 1, 1, 1, 8, 1, 1], 4, [4, 1, 2]),
        ([1, 8, 1], 4, [2, 1]),  # foreseen to take as long as the one before
    ],
)
def test_a_turn_takes_as_long_as_it_is_given_or_one_slice(clock, costs, budget_s, slices):
    done, seen, turns = [], 0, []
    under_way = UnderWay(work(clock, costs, done))
    while not under_way.advance(budget_s):
        clock.now += 100  # what others do meanwhile
        turns, seen = [*turns, len(done) - seen], len(done)
    assert [*turns, *([len(done) - seen] if len(done) > seen else [])] == slices
    assert under_way.seconds == sum(costs)


def test_its_errors_are_raised_to_whoever_gives_it_time(clock):
    def failing():
        yield
        raise MemoryError("too large")

    under_way = UnderWay(failing())
    with pytest.raises(MemoryError, match="too large"):
        under_way.advance(10)
