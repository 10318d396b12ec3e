"""Calls sent together: each gets its own result, also beside errors and canceled calls."""

import asyncio
import threading
from collections.abc import Sequence

import pytest

from service.admission.coalescing import LARGEST, Coalescer


class Journey:
    """A shared call that records its arguments and waits for `gate`."""

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
    """The first number is sent alone; the others wait for it and are sent together; one may be canceled."""
    call = Coalescer[int, int](lambda numbers: asyncio.get_running_loop().run_in_executor(None, journey, numbers))
    tasks = [asyncio.create_task(call(numbers[0]))]
    await under_way(journey, 1)
    tasks += [asyncio.create_task(call(number)) for number in numbers[1:]]
    await asyncio.sleep(0)
    if leave is not None:
        tasks[leave].cancel()
    journey.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_calls_made_during_one_are_sent_together() -> None:
    journey = Journey()
    assert asyncio.run(ask(journey, [1, 2, 3, 4])) == [10, 20, 30, 40]
    assert journey.trips == [[1], [2, 3, 4]]


def test_a_shared_call_has_a_largest_size() -> None:
    journey = Journey()
    asyncio.run(ask(journey, range(LARGEST + 3)))
    assert [len(trip) for trip in journey.trips] == [1, LARGEST, 2]


def test_an_error_reaches_the_callers_of_its_call_and_no_others() -> None:
    answers = asyncio.run(ask(Journey(), [1, 2, -1]))
    assert answers[0] == 10
    assert all(isinstance(answer, ValueError) for answer in answers[1:])


@pytest.mark.parametrize("leave", [0, 1])
def test_a_canceled_call_leaves_the_others_untouched(leave: int) -> None:
    answers = asyncio.run(ask(Journey(), [1, 2, 3], leave=leave))
    assert isinstance(answers.pop(leave), asyncio.CancelledError)
    assert 30 in answers
