"""POST /generate: answers with images, or with a job to fetch them from later."""

import asyncio
from typing import NamedTuple

from fastapi import APIRouter, Request, Response

from service.admission.callers import caller_of
from service.admission.dependencies import Dependencies
from service.admission.resolving import generate_job
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.errors import RETRY_SOON, Refusal
from service.protocol.metrics import HANG_UP
from service.protocol.negotiation import BINARY, JSON, OCTETS, PNG, ZIP, Preference, acceptable, preference
from service.protocol.plain_route import PlainRoute
from service.protocol.schemas import Fault, GenerateRequest, JobReply
from workers.jobs import GenerateJob
from workers.queue.broker import BrokerUnavailable, Expected, new_id

router = APIRouter(tags=["generate"], route_class=PlainRoute)
WATCH_AFTER_S = 0.05  # most answers come sooner, and starting a watch costs more than a timer
PICTURES = dict.fromkeys((PNG, ZIP, OCTETS), BINARY)


class Order(NamedTuple):
    """A job and how its answer is delivered."""

    job_id: str
    job: GenerateJob
    accepted: str  # what the answer is labelled
    preference: Preference
    wait_s: float

    @property
    def media(self) -> str:
        """What the answer is: PNG, ZIP or JSON."""
        return delivery.offers(self.job)[0] if self.accepted == OCTETS else self.accepted

    @property
    def picture(self) -> str | None:
        """The file that is the answer; None where the answer is no PNG or does not wait for the job."""
        return delivery.picture(self.job) if self.media == PNG and self.wait_s > 0 else None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Ebbtide-Job": self.job_id, "X-Ebbtide-Seed": str(self.job.seed), "Vary": "Accept, Prefer"}
        return headers | ({"Preference-Applied": self.preference.applied} if self.preference.applied else {})


@router.post(
    "/generate",
    openapi_extra=documented(GenerateRequest),
    response_class=Response,
    responses={
        200: {"description": "A PNG, a ZIP, or the job with links, as `Accept` asks", "model": JobReply, "content": PICTURES},
        202: {"description": "Accepted (`Prefer: respond-async`, or `wait=N` was too short); `Location` is the job", "model": JobReply},
    },
)
async def generate(request: Request) -> Response:
    """Samples images from a model.

    The answer is a PNG of one image or of a grid; with `"layout": "images"` several images come as a ZIP.
    `Accept` chooses between `image/png`, `application/json`, `application/zip`, and `application/octet-stream` for clients that know no
    images. `Prefer: respond-async` answers 202 at once, `Prefer: wait=N` after at most N seconds; otherwise closing the connection cancels
    the job. Callers take turns: a caller is an API key, or without keys the name in `X-Ebbtide-Caller`, else the client's address.
    """
    dependencies: Dependencies = request.app.state.dependencies
    body = await read(request, GenerateRequest, dependencies.settings)
    job = generate_job(body, dependencies.store, dependencies.settings.max_images, caller_of(request))
    media = _media(request, job)
    preferred = preference(_all(request, "prefer"))
    if preferred.applied is None:
        await dependencies.worker_check.require()
    wait_s = dependencies.settings.wait_s if preferred.wait_s is None else preferred.wait_s
    order = Order(new_id(), job, media, preferred, wait_s)
    with dependencies.completions.expecting(order.job_id) as expected:  # before the job can end
        outcome = await _outcome(request, dependencies, order, expected)
    try:
        return await _answer(dependencies, order, outcome, expected.picture)
    except BrokerUnavailable:
        detail = "Redis stopped answering after it accepted the job; follow `job` in a moment"
        raise Refusal("redis-away", detail, job=delivery.address(order.job_id), headers=RETRY_SOON) from None


def _media(request: Request, job: GenerateJob) -> str:
    """The media type of the answer. Raises Refusal where `Accept` allows none."""
    accept, offered = _all(request, "accept"), delivery.offers(job)
    media = acceptable(accept, offered)
    if media is None:
        fault = Fault(field="Accept", value=(accept or "")[:200], reason="no media type of the answer is accepted", choices=offered)
        raise Refusal("not-acceptable", f"this request can be answered as {', '.join(offered)}", fault)
    return media


def _all(request: Request, name: str) -> str | None:
    return ", ".join(request.headers.getlist(name)) or None


async def _outcome(request: Request, dependencies: Dependencies, order: Order, expected: Expected) -> str:
    """Submits a job and waits until it has `ended`, the client has `left` or the time is up (`pending`)."""
    await dependencies.enqueue(order.job, order.job_id, order.picture)
    expected.submitted = True
    if order.wait_s <= 0:
        return "pending"
    watch = DisconnectWatch(request, expected)
    deadline_s = order.job.deadline_s
    # No message announces that a queued job has expired.
    expiry = None if deadline_s is None else dependencies.completions.look_later(order.job_id, deadline_s)
    try:
        if await expected.within(order.wait_s):
            return "ended"
        return "left" if watch.left else "pending"
    finally:
        watch.stop()
        if expiry:
            expiry.cancel()


class DisconnectWatch:
    """Ends the wait for a job when the client closes its connection; starts after `WATCH_AFTER_S`."""

    def __init__(self, request: Request, expected: Expected) -> None:
        self.left = False
        self._request, self._expected = request, expected
        self._watch: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER_S, self._start)

    def stop(self) -> None:
        self._timer.cancel()
        if self._watch:
            self._watch.cancel()

    def _start(self) -> None:
        self._watch = asyncio.create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        self.left = True
        self._expected.give_up()


async def _answer(dependencies: Dependencies, order: Order, outcome: str, picture: bytes | None) -> Response:
    match outcome:
        case "ended":
            answer = await _deliver(dependencies, order, picture)
            if order.accepted == OCTETS:
                answer.headers["Content-Type"] = OCTETS
            return answer
        case "left":
            if order.preference.applied is None:
                await dependencies.off_loop(lambda: dependencies.broker.cancel(order.job_id))
            return Response(status_code=HANG_UP)
        case _:
            return await _accepted(dependencies, order)


async def _deliver(dependencies: Dependencies, order: Order, picture: bytes | None) -> Response:
    """A finished job in the chosen media type; `picture` is its PNG if that came with the message of its end."""
    if order.media == PNG:
        name = delivery.picture(order.job)
        headers = order.headers | {"Content-Location": delivery.image_address(order.job_id, name)}
        if picture:
            return Response(picture, 200, headers, PNG)
        return await delivery.picture_response(dependencies, order.job_id, name, headers)
    view = await dependencies.job(order.job_id)
    if order.media == ZIP:
        return await delivery.zip_response(dependencies, view, order.headers)
    delivery.refuse_unfinished(view)
    headers = order.headers | {"Content-Location": delivery.address(order.job_id)}
    return Response(delivery.reply(view).model_dump_json(), media_type=JSON, headers=headers)


async def _accepted(dependencies: Dependencies, order: Order) -> Response:
    """202 with the job's address."""
    view = await dependencies.job(order.job_id)
    headers = order.headers | {"Location": delivery.address(order.job_id), "Retry-After": "1"}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)
