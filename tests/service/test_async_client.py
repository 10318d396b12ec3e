"""The client for asyncio, over HTTP to a real API: what the other one does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from service.client import AsyncClient, Client, Refused, Unreachable
from service.client.exchange import ClientError

PNG = b"\x89PNG\r\n\x1a\n"
T = TypeVar("T")


def asked(address: str, do: Callable[[AsyncClient], Awaitable[T]], **settings: object) -> T:
    """What a coroutine gives that is given a client."""

    async def run() -> T:
        async with AsyncClient(address, **settings) as client:
            return await do(client)

    return asyncio.run(run())


def test_both_clients_have_the_same_methods() -> None:
    public = [name for name in vars(Client) if not name.startswith("_")]
    assert public == [name for name in vars(AsyncClient) if not name.startswith("_")]


def test_many_requests_wait_at_once(address: str, painter) -> None:
    async def many(client: AsyncClient) -> list[bytes]:
        return [picture.png for picture in await asyncio.gather(*(client.generate("toy", seed=seed) for seed in range(20)))]

    assert all(png.startswith(PNG) for png in asked(address, many))


@pytest.mark.parametrize("count", [1, 3])
def test_images_come_one_by_one_where_asked_for(address: str, painter, count: int) -> None:
    pictures = asked(address, lambda client: client.generate("toy", layout="images", num_images=count, seed=7))
    assert (len(pictures), {picture.seed for picture in pictures}) == (count, {7})


def test_a_job_is_followed_to_its_end_and_its_models_are_there(address: str, painter) -> None:
    async def follow(client: AsyncClient) -> None:
        seen: list[str] = []
        job = await client.wait((await client.submit("toy", num_images=2)).id, lambda event: seen.append(event.name))
        assert (job.status, seen) == ("finished", ["queued", "started", "progress", "end"])
        assert (await client.picture(job)).png.startswith(PNG)
        assert (await client.image(job.id, 1)).startswith(PNG)
        assert [recent.id for recent in await client.jobs()] == [job.id]
        assert [card.name for card in await client.models()] == ["toy"]
        assert (await client.model("toy@1")).version == 1

    asked(address, follow)


def test_a_queued_job_is_canceled(address: str) -> None:
    async def cancel(client: AsyncClient) -> str:
        return (await client.cancel((await client.submit("toy")).id)).status

    assert asked(address, cancel) == "canceled"


def test_a_call_that_is_canceled_cancels_its_job(address: str, painter) -> None:
    painter.rest()

    async def give_up(client: AsyncClient) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.generate("toy"), 0.5)
        for _ in range(200):
            if [job.status for job in await client.jobs()] == ["canceled"]:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the job goes on")

    asked(address, give_up)


def test_what_goes_wrong_is_told_apart(address: str) -> None:
    with pytest.raises(Refused) as refused:
        asked(address, lambda client: client.generate("nobody"))
    assert refused.value.problem.errors[0].field == "model"
    with pytest.raises(Unreachable):
        asked("http://127.0.0.1:9", lambda client: client.models())
    with pytest.raises(ClientError):
        asked(address, lambda client: client.job("none"))
