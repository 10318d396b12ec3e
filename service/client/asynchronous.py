"""The client for asyncio; errors are those of exchange.py."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

import httpx
from httpx_sse import EventSource

from service.client.exchange import (
    DEFAULT_ADDRESS,
    QUIET_LIMIT_S,
    CalibrateSettings,
    GenerateSettings,
    JobFilter,
    Picture,
    Reply,
    SubmitSettings,
    TrainSettings,
    accepted,
    credentials,
    event_of,
    image_links,
    picture_link,
    posted,
    refused,
    resumed,
    seed_and_job,
    seed_of,
    stored,
    timeouts,
    understood,
    unreachable,
)
from service.protocol.schemas import JobList, JobReply, ModelList, ModelReply
from workers.jobs import Event, Layout


class AsyncClient:
    """One API, over one connection pool; what `Client` does, for asyncio."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str | None = None,
        timeout_s: float = 900,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        """`api_key` is that of the environment, EBBTIDE_API_KEY, unless given."""
        self.address = address
        self._http = httpx.AsyncClient(base_url=address, headers=credentials(api_key), timeout=timeouts(timeout_s), transport=transport)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    @overload
    async def generate(self, model: str, *, layout: Literal["grid"] = "grid", **settings: Unpack[GenerateSettings]) -> Picture: ...

    @overload
    async def generate(self, model: str, *, layout: Literal["images"], **settings: Unpack[GenerateSettings]) -> tuple[Picture, ...]: ...

    async def generate(self, model: str, *, layout: Layout = "grid", **settings: Unpack[GenerateSettings]) -> Picture | tuple[Picture, ...]:
        """Waits for the images and returns them as one picture, or with `layout="images"` one by one.

        Raises Refused where the job is refused, fails or is canceled.
        """
        if layout == "images":
            return await self.pictures(await self.wait((await self.submit(model, layout=layout, **settings)).id))
        asked = posted(settings, model=model, layout=layout)
        asked["headers"]["Accept"] = "image/png"
        answer = await self._send("POST", "/generate", **asked)
        seed, job_id = seed_and_job(answer)
        if answer.status_code == httpx.codes.OK:
            return Picture(answer.content, seed, job_id)
        return await self.picture(await self.wait(job_id))  # the API answered 202: the job goes on

    async def submit(self, model: str, **settings: Unpack[SubmitSettings]) -> JobReply:
        """Enqueues the job and returns at once."""
        asked = posted(settings, model=model)
        asked["headers"]["Prefer"] = "respond-async"
        return await self._read(JobReply, "POST", "/generate", **asked)

    async def replay(self, png: bytes) -> Picture:
        """Makes a picture again and returns it. Raises Refused, which says why, where not all its bytes are the same."""
        answer = await self._send("POST", "/replay", content=png, headers={"Content-Type": "image/png"})
        seed, job_id = seed_and_job(answer)
        return Picture(answer.content, seed, job_id)

    async def train(self, name: str, family: str, dataset: str, **settings: Unpack[TrainSettings]) -> JobReply:
        """Enqueues a training job and returns at once."""
        return await self._read(JobReply, "POST", "/train", **posted(settings, name=name, family=family, dataset=dataset))

    async def calibrate(self, reference: str, **settings: Unpack[CalibrateSettings]) -> JobReply:
        """Enqueues a job that calibrates `name` or `name@version` anew, and returns at once."""
        return await self._read(JobReply, "POST", f"/models/{reference}/calibrate", **posted(settings))

    async def job(self, job_id: str) -> JobReply:
        """Status, progress and result of a job."""
        return await self._read(JobReply, "GET", f"/jobs/{job_id}")

    async def jobs(self, limit: int = 50, **wanted: Unpack[JobFilter]) -> tuple[JobReply, ...]:
        """Recent jobs, newest first. With `after`, the id of the last one, those before it."""
        return (await self._read(JobList, "GET", "/jobs", params={"limit": limit, **wanted})).jobs

    async def cancel(self, job_id: str) -> JobReply:
        """Cancels a job, queued or running."""
        return await self._read(JobReply, "DELETE", f"/jobs/{job_id}")

    async def discard(self, job_id: str) -> JobReply:
        """Deletes the images and other files of a job that is over."""
        return await self._read(JobReply, "DELETE", f"/jobs/{job_id}/results")

    async def wait(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> JobReply:
        """Waits until the job is over and returns it; calls `on_event` with each of its events."""
        async for event in self.events(job_id):
            on_event(event)
        return await self.job(job_id)

    async def picture(self, job: JobReply) -> Picture:
        """The picture of a finished job. Raises Refused if the job has none."""
        return Picture((await self._send("GET", picture_link(job))).content, seed_of(job), job.id)

    async def pictures(self, job: JobReply) -> tuple[Picture, ...]:
        """Each image of a finished job. Raises Refused if the job has none."""
        answers = await asyncio.gather(*(self._send("GET", link) for link in image_links(job)))
        return tuple(Picture(answer.content, seed_of(job), job.id) for answer in answers)

    async def image(self, job_id: str, index: int) -> bytes:
        """One image of a job, as PNG."""
        return (await self._send("GET", f"/jobs/{job_id}/images/{index}")).content

    async def models(self) -> tuple[ModelReply, ...]:
        """The default version of each model."""
        return (await self._read(ModelList, "GET", "/models")).models

    async def model(self, reference: str) -> ModelReply:
        """The card of `name` or `name@version`."""
        return await self._read(ModelReply, "GET", f"/models/{reference}")

    async def download(self, reference: str, folder: str | Path) -> Path:
        """Writes the card and the weights of `name` or `name@version` into a folder, and checks the weights' digest."""
        card = await self.model(reference)
        here = f"/models/{card.name}@{card.version}"
        content, weights = [(await self._send("GET", f"{here}/{name}")).content for name in ("card.json", "weights.safetensors")]
        return stored(folder, content, weights, card.digest)

    async def promote(self, reference: str) -> ModelReply:
        """Makes `name@version` the version that requests without one get; returns its card."""
        return await self._read(ModelReply, "POST", f"/models/{reference}/promote")

    async def delete(self, reference: str) -> None:
        """Deletes `name@version`, which must not be the default."""
        await self._send("DELETE", f"/models/{reference}")

    async def events(self, job_id: str) -> AsyncIterator[Event]:
        """The events of a job from first to last; a broken stream is resumed after the last event received."""
        last: Event | None = None
        while last is None or last.name != "end":
            before = last
            with contextlib.suppress(httpx.TransportError):  # an API that is down fails at `self.job`
                async for event in self._stream(job_id, last):
                    last = event
                    yield event
            if last is before:
                if (await self.job(job_id)).status.over:
                    return
                await asyncio.sleep(0.2)

    async def _stream(self, job_id: str, last: Event | None) -> AsyncIterator[Event]:
        async with self._http.stream("GET", f"/jobs/{job_id}/events", headers=resumed(last), timeout=QUIET_LIMIT_S) as answer:
            if answer.is_error:
                await answer.aread()
                raise refused(answer)
            if answer.status_code == httpx.codes.NO_CONTENT:  # no event can follow
                return
            async for sent in EventSource(answer).aiter_sse():
                if event := event_of(sent):
                    yield event

    async def _read(self, model: type[Reply], method: str, path: str, **options: Any) -> Reply:
        return understood(model, await self._send(method, path, **options))

    async def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return accepted(await self._http.request(method, path, **options))
        except httpx.TransportError as error:
            raise unreachable(self.address, error) from error
