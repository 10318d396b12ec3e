"""POST /train: a job that makes a new version of a model."""

from fastapi import APIRouter, Request, Response

from service.admission.dependencies import ThisApp
from service.admission.resolving import train_job
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.negotiation import JSON
from service.protocol.schemas import JobReply, TrainRequest

router = APIRouter(tags=["train"])


@router.post(
    "/train",
    status_code=202,
    openapi_extra=documented(TrainRequest),
    response_class=Response,
    responses={202: {"description": "Accepted; `Location` is the job", "model": JobReply}},
)
async def train(request: Request, parts: ThisApp) -> Response:
    """Trains a model. The job's events show loss and samples; when it ends, the new version serves at once."""
    job = train_job(await read(request, TrainRequest, parts.settings.max_body_bytes))
    job_id = await parts.enqueue(job)
    view = await parts.job(job_id)
    headers = {"Location": delivery.address(job_id), "X-Ebbtide-Job": job_id, "X-Ebbtide-Seed": str(job.seed)}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)
