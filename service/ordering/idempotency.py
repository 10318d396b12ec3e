"""`Idempotency-Key`: a request that is sent again gets the job of the first, for as long as that job is kept."""

import re
from hashlib import sha256
from typing import NamedTuple

from fastapi import Request
from pydantic import BaseModel

from service.admission.callers import caller_of
from service.admission.dependencies import Dependencies
from service.protocol import delivery
from service.protocol.errors import Refusal
from service.protocol.schemas import Fault
from workers.jobs import AnyJob, JobView
from workers.queue.broker import UnknownJob

HEADER = "Idempotency-Key"
_KEY = re.compile(r"[!-~]{1,255}")


class Repeatable(NamedTuple):
    """The job that a caller's key stands for, and the sha256 of what was asked."""

    job_id: str
    asked: str


def repeatable(request: Request, body: BaseModel) -> Repeatable | None:
    """None without the header. Bodies that differ only in defaults ask for the same. Raises Refusal where the header is no key."""
    key = request.headers.get(HEADER)
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        fault = Fault(field=HEADER, value=key[:300], reason="must be 1 to 255 visible ASCII characters")
        raise Refusal("invalid-request", f"{HEADER} {fault.reason}", fault)
    return Repeatable(
        sha256(f"{caller_of(request)}\n{key}".encode()).hexdigest()[:32],
        sha256(f"{request.url.path}\n{body.model_dump_json(warnings=False)}".encode()).hexdigest(),
    )


async def enqueue_once(dependencies: Dependencies, job: AnyJob, repeat: Repeatable | None, wanted: str | None = None) -> JobView:
    """The job of a request, which is enqueued unless the request repeats another; then the job of that one.

    `wanted` names the file that the request waits for.
    Raises Refusal where the key stands for another request, and what `Dependencies.enqueue` raises.
    """
    if repeat is None:
        return await dependencies.job(await dependencies.enqueue(job, wanted=wanted))
    try:
        view = await dependencies.job(repeat.job_id)
    except UnknownJob:
        await dependencies.enqueue(job.model_copy(update={"asked": repeat.asked}), repeat.job_id, wanted)
        view = await dependencies.job(repeat.job_id)  # of two at once, the first one's
    if view.job.asked != repeat.asked:
        detail = f"this {HEADER} came with another request before; send a new one with a new request"
        raise Refusal("key-reused", detail, job=delivery.address(view.id))
    return view
