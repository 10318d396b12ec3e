"""Calls that travel together: each gets its own answer, failures and leavers included."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from service.admission.coalescing import LARGEST, Coalescer


class Journey:
    """A blocking call that notes who travelled together and waits for `gate`."""

    def __init__(self) -> None:
        self.trips: list[list[int]] = []
        self.gate = threading.Event()

    def __call__(self, numbers: Sequence[int]) -> list[int]:
        self.trips.append(list(numbers))
        assert self.gate.wait(10)
        if -1 in numbers:
            raise ValueError("no negatives")
        return [10 * number for number in numbers]


async def under_way(journey: Journey, trips: int) -> None:
    async with asyncio.timeout(10):
        while len(journey.trips) < trips:
            await asyncio.sleep(0)


async def ask(journey: Journey, numbers: Sequence[int], leave: int | None = None) -> list[object]:
    """The first number travels alone; the others meet while it is under way, and one may leave."""
    call = Coalescer[int, int](lambda numbers: asyncio.get_running_loop().run_in_executor(None, journey, numbers))
    tasks = [asyncio.create_task(call(numbers[0]))]
    await under_way(journey, 1)
    tasks += [asyncio.create_task(call(number)) for number in numbers[1:]]
    await asyncio.sleep(0)
    if leave is not None:
        tasks[leave].cancel()
    journey.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_those_who_come_meanwhile_travel_together() -> None:
    journey = Journey()
    assert asyncio.run(ask(journey, [1, 2, 3, 4])) == [10, 20, 30, 40]
    assert journey.trips == [[1], [2, 3, 4]]


def test_a_trip_has_a_largest_size() -> None:
    journey = Journey()
    asyncio.run(ask(journey, range(LARGEST + 3)))
    assert [len(trip) for trip in journey.trips] == [1, LARGEST, 2]


def test_a_failure_is_told_to_those_who_travelled_and_to_nobody_else() -> None:
    answers = asyncio.run(ask(Journey(), [1, 2, -1]))
    assert answers[0] == 10
    assert all(isinstance(answer, ValueError) for answer in answers[1:])


@pytest.mark.parametrize("leave", [0, 1])
def test_one_who_leaves_takes_nobody_along(leave: int) -> None:
    answers = asyncio.run(ask(Journey(), [1, 2, 3], leave=leave))
    assert isinstance(answers.pop(leave), asyncio.CancelledError)
    assert 30 in answers
