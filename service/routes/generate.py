"""POST /generate: answers with images, or with a job to fetch them from later."""

from fastapi import APIRouter, Request, Response

from service.admission.callers import caller_of
from service.admission.dependencies import Dependencies
from service.ordering import orders
from service.ordering.idempotency import repeatable
from service.ordering.orders import Ended
from service.ordering.resolving import generate_job
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.errors import Refusal
from service.protocol.negotiation import BINARY, JSON, OCTETS, PNG, WEBP, ZIP
from service.protocol.plain_route import PlainRoute
from service.protocol.schemas import Fault, GenerateRequest, JobReply
from workers.queue.broker import BrokerUnavailable

router = APIRouter(tags=["generate"], route_class=PlainRoute)
IMAGES = ("links", "base64")  # how JSON has them
PICTURES = dict.fromkeys((PNG, WEBP, ZIP, OCTETS), BINARY)


@router.post(
    "/generate",
    openapi_extra=documented(GenerateRequest),
    response_class=Response,
    responses={
        200: {"description": "A PNG, a WebP, a ZIP, or the job with links, as `Accept` asks", "model": JobReply, "content": PICTURES},
        202: {"description": "Accepted (`Prefer: respond-async`, or `wait=N` was too short); `Location` is the job", "model": JobReply},
    },
)
async def generate(request: Request) -> Response:
    """Samples images from a model.

    The answer is a PNG of one image or of a grid; with `"layout": "images"` several images come as a ZIP.
    `Accept` chooses between `image/png`, `image/webp` (the same pixels, without the text), `application/json`, `application/zip`, and
    `application/octet-stream` for clients that know no images. With `?images=base64` the JSON has the images, not only their links.
    `Prefer: respond-async` answers 202 at once, `Prefer: wait=N` after at most N seconds; otherwise closing the connection cancels the job.
    With an `Idempotency-Key` it goes on, and the same request sent again gets the same job. Callers take turns: a caller is an API key, or
    without keys the name in `X-Ebbtide-Caller`, else the client's address.
    """
    dependencies: Dependencies = request.app.state.dependencies
    body = await read(request, GenerateRequest, dependencies.settings)
    job = generate_job(body, dependencies.store, dependencies.settings.max_images, caller_of(request))
    images = request.query_params.get("images", IMAGES[0])
    if images not in IMAGES:
        fault = Fault(field="images", value=images[:200], reason="unknown way to send images", choices=IMAGES)
        raise Refusal("invalid-request", f"images: {fault.reason}", fault)
    media = orders.media_type(request, delivery.offers(job))
    ended = await orders.ordered(request, dependencies, job, media, repeatable(request, body))
    if isinstance(ended, Response):
        return ended
    try:
        answer = await _deliver(dependencies, ended, in_base64=images == "base64")
    except BrokerUnavailable:
        raise orders.away(ended.order) from None
    if media == OCTETS:
        answer.headers["Content-Type"] = OCTETS
    return answer


async def _deliver(dependencies: Dependencies, ended: Ended, *, in_base64: bool) -> Response:
    """A job that is over in the chosen media type. Raises Refusal where it has no images."""
    order = ended.order
    if order.media in (PNG, WEBP):
        headers = order.headers | {"Content-Location": delivery.image_address(order.job_id, order.file)}
        if ended.picture:
            return await delivery.as_media(dependencies, ended.picture, headers, order.media)
        return await delivery.picture_response(dependencies, order.job_id, order.file, headers, order.media)
    view = await dependencies.job(order.job_id)
    if order.media == ZIP:
        return await delivery.zip_response(dependencies, view, order.headers)
    delivery.refuse_unfinished(view)
    reply = delivery.reply(view)
    if in_base64:
        reply = reply.model_copy(update={"pictures": await delivery.in_base64(dependencies, view)})
    headers = order.headers | {"Content-Location": delivery.address(order.job_id)}
    return Response(reply.model_dump_json(), media_type=JSON, headers=headers)
