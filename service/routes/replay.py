"""POST /replay: makes a picture again from the request that it carries."""

from fastapi import APIRouter, Request, Response

from service.admission.callers import caller_of
from service.admission.dependencies import Injected
from service.ordering import orders
from service.ordering.replaying import differences, file_of, job_of, text_of
from service.protocol import delivery
from service.protocol.bodies import read_bytes
from service.protocol.errors import Refusal
from service.protocol.negotiation import BINARY, OCTETS, PNG
from service.protocol.schemas import JobReply
from workers.queue.broker import BrokerUnavailable

router = APIRouter(tags=["generate"])
BODY = {
    "requestBody": {"required": True, "content": {OCTETS: BINARY}}
}  # read whatever it is labelled; generators of clients know no image/png


@router.post(
    "/replay",
    openapi_extra=BODY,
    response_class=Response,
    responses={
        200: {"description": "The same bytes", "content": {PNG: BINARY, OCTETS: BINARY}},
        202: {"description": "Accepted (`Prefer: respond-async`, or `wait=N` was too short); `Location` is the job", "model": JobReply},
        409: {"description": "It came out differently; `errors` says in what, `job` is the job that made it again"},
    },
)
async def replay(request: Request, dependencies: Injected) -> Response:
    """Makes a PNG of Ebbtide's again, and answers with it where all its bytes are the same.

    The body is the file. 422 says what is missing here, such as its checkpoint; 409 what differs: another device, another torch, a file
    that was changed. `Prefer: respond-async` and `wait=N` answer with the job, whose picture is then not compared.
    """
    settings = dependencies.settings
    media = orders.media_type(request, (PNG, OCTETS))
    given = await read_bytes(request, settings, settings.max_image_bytes)
    text = text_of(given)
    job = await dependencies.off_loop(lambda: job_of(text, dependencies.store, settings.max_images, caller_of(request)))
    name = file_of(text, job)
    ended = await orders.ordered(request, dependencies, job, PNG, name=name)
    if isinstance(ended, Response):
        return ended
    headers = ended.order.headers | {"Content-Location": delivery.image_address(ended.order.job_id, name)}
    try:
        made = ended.picture or (await delivery.picture_response(dependencies, ended.order.job_id, name, headers)).body
    except BrokerUnavailable:
        raise orders.away(ended.order) from None
    if made == given:
        return Response(given, 200, headers, media)
    faults = differences(text, text_of(bytes(made)))
    why = ", ".join(fault.field for fault in faults[:8]) or "only its bytes: the file was changed after it was made"
    raise Refusal("replay-differs", f"it was made again and differs in {why}", *faults, job=delivery.address(ended.order.job_id))
