"""POST /train: enqueues a job that trains a new version of a model."""

from fastapi import APIRouter, Request, Response

from service.admission.callers import caller_of
from service.admission.dependencies import Injected
from service.admission.ownership import claimed
from service.ordering.idempotency import enqueue_once, repeatable
from service.ordering.resolving import train_job
from service.protocol import delivery
from service.protocol.bodies import documented, read
from service.protocol.negotiation import JSON
from service.protocol.schemas import JobReply, TrainRequest
from workers.jobs import TrainJob

router = APIRouter(tags=["train"])


@router.post(
    "/train",
    status_code=202,
    openapi_extra=documented(TrainRequest),
    response_class=Response,
    responses={202: {"description": "Accepted; `Location` is the job", "model": JobReply}},
)
async def train(request: Request, dependencies: Injected) -> Response:
    """Trains a new version of a model. The job's events report loss and samples; the version can be sampled as soon as it has finished.

    A name belongs to the key that trains it first; other keys need the scope `admin` to add to it. Without `promote` the model's default
    version stays what it is.
    """
    asked = await read(request, TrainRequest, dependencies.settings)
    job = train_job(asked, dependencies.settings).model_copy(update={"caller": caller_of(request)})
    async with claimed(dependencies, job.name):
        view = await enqueue_once(dependencies, job, repeatable(request, asked))
    assert isinstance(view.job, TrainJob)
    headers = {"Location": delivery.address(view.id), "X-Ebbtide-Job": view.id, "X-Ebbtide-Seed": str(view.job.seed)}
    return Response(delivery.reply(view).model_dump_json(), 202, headers, media_type=JSON)
