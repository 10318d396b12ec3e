"""A job and the request that waits for its pictures."""

import asyncio
from typing import NamedTuple

from fastapi import Request, Response

from service.admission.dependencies import Dependencies
from service.ordering.idempotency import Repeatable, enqueue_once
from service.protocol import delivery
from service.protocol.errors import RETRY_SOON, Refusal
from service.protocol.metrics import HANG_UP
from service.protocol.negotiation import JSON, OCTETS, PNG, WEBP, Preference, acceptable, preference
from service.protocol.schemas import Fault
from workers.jobs import GenerateJob
from workers.queue.broker import BrokerUnavailable, Expected, new_id

WATCH_AFTER_S = 0.05  # most answers come sooner, and starting a watch costs more than a timer


class Order(NamedTuple):
    """A job and how its answer is delivered."""

    job_id: str
    job: GenerateJob
    accepted: str  # what the answer is labelled
    preference: Preference
    wait_s: float
    repeat: Repeatable | None = None
    name: str = ""  # the file that is the answer; the one that shows all images where none is named

    @property
    def media(self) -> str:
        """What the answer is: PNG, WebP, ZIP or JSON."""
        return delivery.offers(self.job)[0] if self.accepted == OCTETS else self.accepted

    @property
    def file(self) -> str:
        return self.name or delivery.picture(self.job)

    @property
    def picture(self) -> str | None:
        """The file that is the answer; None where the answer is no picture or does not wait for the job."""
        return self.file if self.media in (PNG, WEBP) and self.wait_s > 0 else None

    @property
    def headers(self) -> dict[str, str]:
        headers = {"X-Ebbtide-Job": self.job_id, "X-Ebbtide-Seed": str(self.job.seed), "Vary": "Accept, Prefer"}
        return headers | ({"Preference-Applied": self.preference.applied} if self.preference.applied else {})


class Ended(NamedTuple):
    """A job that is over, and its picture if that came with the message of its end."""

    order: Order
    picture: bytes | None


async def ordered(
    request: Request, dependencies: Dependencies, job: GenerateJob, accepted: str, repeat: Repeatable | None = None, name: str = ""
) -> Ended | Response:
    """Enqueues a job and waits for its end as `Prefer` asks; a response where the answer does not wait so long, or the client has left."""
    preferred = preference(_all(request, "prefer"))
    if preferred.applied is None:
        await dependencies.worker_check.require()
    wait_s = dependencies.settings.wait_s if preferred.wait_s is None else preferred.wait_s
    order = Order(repeat.job_id if repeat else new_id(), job, accepted, preferred, wait_s, repeat, name)
    with dependencies.completions.expecting(order.job_id) as expected:  # before the job can end
        order = await _placed(dependencies, order, expected)
        outcome = await _outcome(request, dependencies, order, expected)
    try:
        match outcome:
            case "ended":
                return Ended(order, expected.picture)
            case "left":
                if order.preference.applied is None and order.repeat is None:
                    await dependencies.off_loop(lambda: dependencies.broker.cancel(order.job_id))
                return Response(status_code=HANG_UP)
            case _:
                return await _accepted(dependencies, order)
    except BrokerUnavailable:
        raise away(order) from None


def away(order: Order) -> Refusal:
    """Of an accepted job that cannot be read."""
    detail = "Redis stopped answering after it accepted the job; follow `job` in a moment"
    return Refusal("redis-away", detail, job=delivery.address(order.job_id), headers=RETRY_SOON)


def media_type(request: Request, offered: tuple[str, ...]) -> str:
    """The media type of the answer. Raises Refusal where `Accept` allows none of those offered."""
    accept = _all(request, "accept")
    media = acceptable(accept, offered)
    if media is None:
        fault = Fault(field="Accept", value=(accept or "")[:200], reason="no media type of the answer is accepted", choices=offered)
        raise Refusal("not-acceptable", f"this request can be answered as {', '.join(offered)}", fault)
    return media


def _all(request: Request, name: str) -> str | None:
    """A header, all its lines as one."""
    return ", ".join(request.headers.getlist(name)) or None


async def _placed(dependencies: Dependencies, order: Order, expected: Expected) -> Order:
    """Enqueues a job; the order returned has the job of the request that this one repeats."""
    if order.repeat is None:
        await dependencies.enqueue(order.job, order.job_id, order.picture)
    else:
        view = await enqueue_once(dependencies, order.job, order.repeat, wanted=order.picture)
        assert isinstance(view.job, GenerateJob)
        order = order._replace(job=view.job)
        if view.status.over:
            expected.end()
    expected.submitted = True
    return order


async def _outcome(request: Request, dependencies: Dependencies, order: Order, expected: Expected) -> str:
    """Waits until a job has `ended`, the client has `left` or the time is up (`pending`)."""
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


async def _accepted(dependencies: Dependencies, order: Order) -> Response:
    """202 with the job's address."""
    view = await dependencies.job(order.job_id)
    headers = order.headers | {"Location": delivery.address(order.job_id), "Retry-After": "1"}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)
