"""Jobs: status, images, events, cancellation."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from service.admission.dependencies import Dependencies, Injected
from service.admission.eta import eta_s
from service.protocol import delivery
from service.protocol.negotiation import ANY_PICTURE
from service.protocol.schemas import JobList, JobReply
from workers.jobs import EVENT_ID, Event, JobView, Status
from workers.queue.broker import UnknownJob

router = APIRouter(tags=["jobs"], prefix="/jobs")
JOB_ID = r"^[A-Za-z0-9_-]{1,128}$"
JobId = Annotated[str, Path(pattern=JOB_ID)]


class Filter(BaseModel):
    """Which jobs are listed: those for which all that is given is true."""

    status: list[Status] = Field([], description="may be repeated: any of them")
    kind: str | None = Field(None, max_length=100, description="such as generate, train, calibrate")
    model: str | None = Field(None, max_length=100, description="the model they sample or make")
    key: str | None = Field(None, max_length=100, description="name of the API key that asked, or of the caller")
    since: float | None = Field(None, ge=0, description="Unix seconds: submitted then or later")
    until: float | None = Field(None, ge=0, description="Unix seconds: submitted before")
    after: str | None = Field(None, pattern=JOB_ID, description="id of a job: only those submitted before it")
    limit: int = Field(50, ge=1, le=200)

    def wants(self, view: JobView) -> bool:
        return (
            (not self.status or view.status in self.status)
            and self.kind in (None, view.job.kind)
            and self.model in (None, view.job.model_name)
            and self.key in (None, view.job.caller)
            and (self.since is None or view.created_at >= self.since)
            and (self.until is None or view.created_at < self.until)
        )


@router.get("")
async def jobs(request: Request, dependencies: Injected, asked: Annotated[Filter, Query()]) -> JobList:
    """Recent jobs, newest first, of the last thousand; `next` leads to the jobs before these."""
    views = await dependencies.recent(asked.limit + 1, asked.wants, asked.after)
    shown = views[: asked.limit]
    more = request.url.include_query_params(after=shown[-1].id) if len(views) > asked.limit else None
    return JobList(jobs=tuple(delivery.reply(view) for view in shown), next=f"{more.path}?{more.query}" if more else None)


@router.get("/{job_id}")
async def job(job_id: JobId, dependencies: Injected) -> JobReply:
    """Status, queue position, progress, diagnostics and links of a job."""
    view = await dependencies.job(job_id)
    return delivery.reply(view, None if view.status.over else eta_s(view, await dependencies.queue_state()))


@router.delete("/{job_id}")
async def cancel(job_id: JobId, dependencies: Injected) -> JobReply:
    """Cancels a queued or running job; a job that is over stays as it is."""
    return delivery.reply(await dependencies.cancel(job_id))


@router.delete("/{job_id}/results")
async def discard(job_id: JobId, dependencies: Injected) -> JobReply:
    """Deletes the files of a job that is over; they no longer count to what is kept. Its record stays until it expires."""
    return delivery.reply(await dependencies.discard(job_id))


@router.get("/{job_id}/images/grid", response_class=Response, responses=ANY_PICTURE)
async def grid(job_id: JobId, request: Request, dependencies: Injected) -> Response:
    """All images of a job in one picture."""
    return await delivery.stored(dependencies, request, job_id, delivery.GRID)


@router.get("/{job_id}/images/{index}", response_class=Response, responses=ANY_PICTURE)
async def image(job_id: JobId, index: Annotated[int, Path(ge=0, lt=10_000)], request: Request, dependencies: Injected) -> Response:
    """One image of a job, counted from 0."""
    return await delivery.stored(dependencies, request, job_id, f"{index}.png")


@router.get("/{job_id}/artifacts/{name}", response_class=Response, responses=ANY_PICTURE)
async def artifact(
    job_id: JobId, name: Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}\.png$")], request: Request, dependencies: Injected
) -> Response:
    """A named picture of a job, such as samples drawn during training."""
    return await delivery.stored(dependencies, request, job_id, name)


class Resumed(NamedTuple):
    """The events of a job after the last one that the client has seen."""

    last: str  # id of that event
    news: list[Event]


async def _resumed(job_id: JobId, dependencies: Injected, last_event_id: Annotated[str, Header(pattern=EVENT_ID)] = "0") -> Resumed:
    """Events after Last-Event-ID. 404 for an unknown job; 204, at which a browser stops reconnecting, where none can follow."""
    view = await dependencies.job(job_id)
    news = await dependencies.off_loop(lambda: dependencies.broker.events(job_id, last_event_id))
    if not news and view.status.over:
        raise HTTPException(204)
    return Resumed(last_event_id, news)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def events(job_id: JobId, dependencies: Injected, resumed: Annotated[Resumed, Depends(_resumed)]) -> AsyncIterator[ServerSentEvent]:
    """Events of a job as they happen (server-sent events); resumes after Last-Event-ID."""
    with dependencies.metrics.event_streams.track_inprogress():
        async for event in _followed(dependencies, job_id, *resumed):
            yield ServerSentEvent(data=_linked(job_id, event.data), event=event.name, id=event.id)


def _linked(job_id: str, data: dict[str, object]) -> dict[str, object]:
    """The data of an event, with the address of the artifact it names."""
    name = data.get("artifact")
    return data | {"href": delivery.artifact_address(job_id, str(name))} if name else data


async def _followed(dependencies: Dependencies, job_id: str, last: str, news: list[Event]) -> AsyncIterator[Event]:
    """Events until the job's last one, until the job is no longer kept, or until the app closes."""
    while not dependencies.closing.is_set():
        for event in news:
            yield event
            last = event.id
            if event.name == "end":
                return
        await asyncio.sleep(dependencies.settings.event_poll_s)
        try:
            news = await dependencies.off_loop(lambda after=last: dependencies.broker.events(job_id, after))  # type: ignore[misc]
        except UnknownJob:
            return
