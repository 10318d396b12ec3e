"""POST /generate: images by return, or a job to come back for."""

import asyncio
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from service.admission.callers import caller_of
from service.admission.dependencies import Parts
from service.admission.resolving import generate_job
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.errors import RETRY_SOON, Refusal
from service.protocol.metrics import HANG_UP
from service.protocol.negotiation import JSON, PNG, ZIP, Preference, acceptable, preference
from service.protocol.schemas import Fault, GenerateRequest, JobReply, ProblemDetails
from workers.jobs import GenerateJob
from workers.queue.broker import BrokerUnavailable, Expected, new_id

router = APIRouter(tags=["generate"])
WATCHED_AFTER_S = 0.05  # most answers are there by then, and a watch costs more than a timer
PICTURES = {PNG: {"schema": {"type": "string", "format": "binary"}}, ZIP: {"schema": {"type": "string", "format": "binary"}}}


class Asked(NamedTuple):
    """A request with every choice made."""

    job_id: str
    job: GenerateJob
    media: str
    wish: Preference
    wait_s: float

    @property
    def picture(self) -> str | None:
        """The file that is the whole answer, where it is one and somebody waits for it."""
        return delivery.picture(self.job) if self.media == PNG and self.wait_s > 0 else None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Ebbtide-Job": self.job_id, "X-Ebbtide-Seed": str(self.job.seed), "Vary": "Accept, Prefer"}
        return headers | ({"Preference-Applied": self.wish.applied} if self.wish.applied else {})


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
    asked = Asked(new_id(), job, media, wish, parts.settings.wait_s if wish.wait_s is None else wish.wait_s)
    with parts.finishes.expecting(asked.job_id) as expected:  # before it is submitted, so that its end is heard without a look
        outcome = await _outcome(request, parts, asked, expected)
    try:
        return await _answer(parts, asked, outcome, expected.picture)
    except BrokerUnavailable:
        detail = "Redis went away after it had taken the job; look at the job in a moment"
        raise Refusal("redis-away", detail, job=delivery.address(asked.job_id), headers=RETRY_SOON) from None


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


async def _outcome(request: Request, parts: Parts, asked: Asked, expected: Expected) -> str:
    """Submits a job; what came first then: it `ended`, the client `left`, or patience ran out (`pending`)."""
    await parts.enqueue(asked.job, asked.job_id, asked.picture)
    expected.submitted = True
    if asked.wait_s <= 0:
        return "pending"
    waiter = Waiter(request, expected)
    deadline_s = asked.job.deadline_s
    expiry = None if deadline_s is None else parts.finishes.look_later(asked.job_id, deadline_s)  # in the queue it comes unannounced
    try:
        if await expected.within(asked.wait_s):
            return "ended"
        return "left" if waiter.left else "pending"
    finally:
        waiter.let_go()
        if expiry:
            expiry.cancel()


class Waiter:
    """The client that waits for a job; when it hangs up the wait ends. Nobody looks for that in the first `WATCHED_AFTER_S`."""

    def __init__(self, request: Request, expected: Expected) -> None:
        self.left = False
        self._request, self._expected = request, expected
        self._watch: asyncio.Task[None] | None = None
        self._watch_soon = asyncio.get_running_loop().call_later(WATCHED_AFTER_S, self._begin)

    def let_go(self) -> None:
        """The answer is known."""
        self._watch_soon.cancel()
        if self._watch:
            self._watch.cancel()

    def _begin(self) -> None:
        self._watch = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._expected.give_up()


async def _answer(parts: Parts, asked: Asked, outcome: str, picture: bytes | None) -> Response:
    match outcome:
        case "ended":
            return await _deliver(parts, asked, picture)
        case "left":
            await parts.off_loop(lambda: parts.broker.cancel(asked.job_id))
            return Response(status_code=HANG_UP)
        case _:
            return await _accepted(parts, asked)


async def _deliver(parts: Parts, asked: Asked, picture: bytes | None) -> Response:
    """A finished job in the media type chosen; its picture may have come already."""
    if asked.media == PNG:
        name = delivery.picture(asked.job)
        headers = asked.headers | {"Content-Location": delivery.image_address(asked.job_id, name)}
        return Response(picture, 200, headers, PNG) if picture else await delivery.picture_response(parts, asked.job_id, name, headers)
    view = await parts.job(asked.job_id)
    if asked.media == ZIP:
        return await delivery.zip_response(parts, view, asked.headers)
    delivery.refuse_unfinished(view)
    headers = asked.headers | {"Content-Location": delivery.address(asked.job_id)}
    return Response(delivery.reply(view).model_dump_json(), media_type=JSON, headers=headers)


async def _accepted(parts: Parts, asked: Asked) -> Response:
    """202 and where to look."""
    view = await parts.job(asked.job_id)
    headers = asked.headers | {"Location": delivery.address(asked.job_id), "Retry-After": "1"}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)
