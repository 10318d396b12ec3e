"""Jobs: what became of them, their images, their events, and an end to them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from fastapi.exceptions import HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent

from service.admission.dependencies import Parts, ThisApp
from service.admission.eta import eta_s
from service.protocol import delivery
from service.protocol.negotiation import PNG
from service.protocol.schemas import JobList, JobReply
from workers.jobs import EVENT_ID, Event
from workers.queue.broker import UnknownJob

router = APIRouter(tags=["jobs"], prefix="/jobs")
JobId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,128}$")]
PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {PNG: {"schema": {"type": "string", "format": "binary"}}}}}


@router.get("")
async def jobs(parts: ThisApp, limit: Annotated[int, Query(ge=1, le=200)] = 50) -> JobList:
    """Recent jobs, newest first."""
    views = await parts.off_loop(lambda: parts.broker.recent(limit))
    return JobList(jobs=tuple(delivery.reply(view) for view in views))


@router.get("/{job_id}")
async def job(job_id: JobId, parts: ThisApp) -> JobReply:
    """Status, place in the queue, progress, diagnostics and links of a job."""
    view = await parts.job(job_id)
    return delivery.reply(view, None if view.status.over else eta_s(view, await parts.queue_state()))


@router.delete("/{job_id}")
async def cancel(job_id: JobId, parts: ThisApp) -> JobReply:
    """Cancels a job, queued or running, and no other; a job that is over stays as it is."""
    return delivery.reply(await parts.off_loop(lambda: parts.broker.cancel(job_id)))


@router.get("/{job_id}/images/grid", response_class=Response, responses=PICTURE)
async def grid(job_id: JobId, parts: ThisApp) -> Response:
    """All images of a job in one picture."""
    return await delivery.picture_response(parts, job_id, delivery.GRID, delivery.FOR_EVER)


@router.get("/{job_id}/images/{index}", response_class=Response, responses=PICTURE)
async def image(job_id: JobId, index: Annotated[int, Path(ge=0, lt=10_000)], parts: ThisApp) -> Response:
    """One image of a job, counted from 0."""
    return await delivery.picture_response(parts, job_id, f"{index}.png", delivery.FOR_EVER)


@router.get("/{job_id}/artifacts/{name}", response_class=Response, responses=PICTURE)
async def artifact(job_id: JobId, name: Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\.png$")], parts: ThisApp) -> Response:
    """A picture that a job left under a name, such as samples drawn while training."""
    return await delivery.picture_response(parts, job_id, name, delivery.FOR_EVER)


class Told(NamedTuple):
    """What is known of a job to somebody who has heard of it before, or has not."""

    last: str  # the id of the last event he has seen
    news: list[Event]


async def _told(job_id: JobId, parts: ThisApp, last_event_id: Annotated[str, Header(pattern=EVENT_ID)] = "0") -> Told:
    """Events after Last-Event-ID. 404 for an unknown job; 204, which tells a browser to stop asking, where none can follow."""
    view = await parts.job(job_id)
    news = await parts.off_loop(lambda: parts.broker.events(job_id, last_event_id))
    if not news and view.status.over:
        raise HTTPException(204)
    return Told(last_event_id, news)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(job_id: JobId, parts: ThisApp, told: Annotated[Told, Depends(_told)]) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job, as it happens (server-sent events); resumes after Last-Event-ID."""
    with parts.metrics.event_streams.track_inprogress():
        async for event in _followed(parts, job_id, *told):
            yield ServerSentEvent(data=_linked(job_id, event.data), event=event.name, id=event.id)


def _linked(job_id: str, data: dict[str, object]) -> dict[str, object]:
    """What an event says, with the address of the picture it speaks of."""
    name = data.get("artifact")
    return data | {"href": delivery.artifact_address(job_id, str(name))} if name else data


async def _followed(parts: Parts, job_id: str, last: str, news: list[Event]) -> AsyncIterator[Event]:
    """Events until the job's last one, until nobody knows the job any more, or until the app closes."""
    while not parts.closing.is_set():
        for event in news:
            yield event
            last = event.id
            if event.name == "end":
                return
        await asyncio.sleep(parts.settings.event_poll_s)
        try:
            news = await parts.off_loop(lambda after=last: parts.broker.events(job_id, after))  # type: ignore[misc]
        except UnknownJob:
            return
