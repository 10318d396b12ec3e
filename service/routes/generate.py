"""POST /generate: images by return, or a job to come back for."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from service import delivery
from service.bodies import documented, read
from service.errors import RETRY_SOON, Refusal
from service.limits import caller_of
from service.metrics import HANG_UP
from service.negotiation import JSON, PNG, ZIP, Preference, acceptable, preference
from service.parts import Parts
from service.resolving import generate_job
from service.schemas import Fault, GenerateRequest, JobReply, ProblemDetails
from workers.broker import BrokerUnavailable, Expected, new_id
from workers.jobs import GenerateJob


class DirectRoute(APIRoute):
    """Calls an endpoint that reads its request by itself, past FastAPI's search for parameters: a sixth of what the API spends on one."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        endpoint: Callable[[Request], Coroutine[Any, Any, Response]] = self.endpoint
        return endpoint


router = APIRouter(tags=["generate"], route_class=DirectRoute)
PICTURES = {PNG: {"schema": {"type": "string", "format": "binary"}}, ZIP: {"schema": {"type": "string", "format": "binary"}}}


@router.post(
    "/generate",
    openapi_extra=documented(GenerateRequest),
    response_class=Response,
    responses={
        200: {"description": "The picture, a ZIP or the job with links, as `Accept` asks", "model": JobReply, "content": PICTURES},
        429: {"description": "Too much is waiting already; `Retry-After` says when there is room", "model": ProblemDetails},
        202: {"description": "Accepted (`Prefer: respond-async`, or `wait=N` was too short); `Location` is the job", "model": JobReply},
    },
)
async def generate(request: Request) -> Response:
    """Draws images from a model.

    The answer is the picture: one image, or a grid of several. With `"layout": "images"` several images come as a ZIP.
    `Accept` chooses between `image/png`, `application/json` and `application/zip`. `Prefer: respond-async` answers 202 at once,
    `Prefer: wait=N` after N seconds at the latest; otherwise hanging up cancels the job. Callers take turns, by the name in
    `X-Ebbtide-Caller` or else by address.
    """
    parts: Parts = request.app.state.parts
    body = await read(request, GenerateRequest, parts.settings.max_body_bytes)
    job = generate_job(body, parts.store, parts.settings.max_images, caller_of(request))
    media = _media(request, job)
    wish = preference(_all(request, "prefer"))
    if wish.applied is None:
        await parts.require_worker()
    await parts.backlog.admit(job)
    job_id = new_id()
    outcome = await _outcome(request, parts, job_id, job, wait_s=parts.settings.wait_s if wish.wait_s is None else wish.wait_s)
    try:
        return await _answer(parts, job_id, job, outcome=outcome, media=media, headers=_headers(job_id, job, wish))
    except BrokerUnavailable:
        detail = "Redis went away after it had taken the job; look at the job in a moment"
        raise Refusal("redis-away", detail, job=delivery.address(job_id), headers=RETRY_SOON) from None


def _media(request: Request, job: GenerateJob) -> str:
    """The media type of the answer. Raises Refusal where none of ours is accepted."""
    accept, offered = _all(request, "accept"), delivery.offers(job)
    media = acceptable(accept, offered)
    if media is None:
        fault = Fault(field="Accept", value=(accept or "")[:200], reason="cannot be made of these images", choices=offered)
        raise Refusal("not-acceptable", f"these images can be had as {', '.join(offered)}", fault)
    return media


def _all(request: Request, name: str) -> str | None:
    return ", ".join(request.headers.getlist(name)) or None


def _headers(job_id: str, job: GenerateJob, wish: Preference) -> dict[str, str]:
    headers = {"X-Ebbtide-Job": job_id, "X-Ebbtide-Seed": str(job.seed), "Vary": "Accept, Prefer"}
    return headers | ({"Preference-Applied": wish.applied} if wish.applied else {})


async def _outcome(request: Request, parts: Parts, job_id: str, job: GenerateJob, *, wait_s: float) -> str:
    """Submits a job; what came first then: it `ended`, the client `left`, or patience ran out (`pending`)."""
    with parts.finishes.expecting(job_id) as expected:  # before it is submitted, so that its end is heard without a look
        await parts.submit(job, job_id)
        expected.submitted = True
        if wait_s <= 0:
            return "pending"
        left = asyncio.create_task(_hang_up(request, expected))
        expiry = parts.finishes.look_later(
            job_id, wait_s if job.deadline_s is None else job.deadline_s
        )  # in the queue it comes unannounced
        try:
            if await expected.within(wait_s):
                return "ended"
            return "left" if left.done() else "pending"
        finally:
            left.cancel()
            if expiry:
                expiry.cancel()


async def _hang_up(request: Request, expected: Expected) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    expected.give_up()


async def _answer(parts: Parts, job_id: str, job: GenerateJob, *, outcome: str, media: str, headers: dict[str, str]) -> Response:
    match outcome:
        case "ended":
            return await _deliver(parts, job_id, job, media=media, headers=headers)
        case "left":
            await parts.off_loop(lambda: parts.broker.cancel(job_id))
            return Response(status_code=HANG_UP)
        case _:
            return await _accepted(parts, job_id, headers)


async def _deliver(parts: Parts, job_id: str, job: GenerateJob, *, media: str, headers: dict[str, str]) -> Response:
    """A finished job in the media type chosen."""
    if media == PNG:
        name = delivery.picture(job)
        return await delivery.picture_response(parts, job_id, name, headers | {"Content-Location": delivery.image_address(job_id, name)})
    view = await parts.off_loop(lambda: parts.broker.view(job_id))
    if media == ZIP:
        return await delivery.zip_response(parts, view, headers)
    delivery.refuse_unfinished(view)
    headers |= {"Content-Location": delivery.address(job_id)}
    return Response(delivery.reply(view).model_dump_json(), media_type=JSON, headers=headers)


async def _accepted(parts: Parts, job_id: str, headers: dict[str, str]) -> Response:
    """202 and where to look."""
    view = await parts.off_loop(lambda: parts.broker.view(job_id))
    return Response(
        delivery.reply(view).model_dump_json(), 202, headers | {"Location": delivery.address(job_id), "Retry-After": "1"}, media_type=JSON
    )
