"""What both clients have in common: the settings of requests, pictures, errors, and how answers are read.

Errors:

    ClientError
    ├── Unreachable    no answer from the address
    ├── Misunderstood  the answer is not what this version of the client knows
    └── Refused        the API refused the request; `.problem` names field, value and choices
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, TypeVar

import httpx
from httpx_sse import ServerSentEvent
from pydantic import BaseModel, ValidationError

from service.protocol.schemas import JobReply, ProblemDetails
from workers.jobs import Event, GenerateJob, Layout, Priority

DEFAULT_ADDRESS = "http://127.0.0.1:8000"
QUIET_LIMIT_S = 60.0  # the API sends a comment every 15 s
Reply = TypeVar("Reply", bound=BaseModel)


class Repeatable(TypedDict, total=False):
    """A request sent again with the same key gets the same job."""

    idempotency_key: str


class GenerateSettings(Repeatable, total=False):
    """Optional fields of POST /generate; `class_` is its field `class`, which is no name in Python."""

    sampler: str
    mcmc: dict[str, Any]
    num_images: int
    seed: int
    class_: int | list[int]
    priority: Priority
    deadline_s: float


class SubmitSettings(GenerateSettings, total=False):
    """Those, and how the images come."""

    layout: Layout


class TrainSettings(Repeatable, total=False):
    """Optional fields of POST /train."""

    steps: int
    batch_size: int
    width: int
    latent_size: int
    seed: int
    evaluations: int
    calibrate: bool
    promote: bool
    options: dict[str, Any]


class CalibrateSettings(Repeatable, total=False):
    """Optional fields of POST /models/{name}/calibrate."""

    method: str
    options: dict[str, Any]
    dataset: str
    seed: int
    promote: bool


class JobFilter(TypedDict, total=False):
    """Which jobs GET /jobs lists; `since` and `until` are Unix seconds."""

    status: str | list[str]
    kind: str
    model: str
    key: str
    since: float
    until: float
    after: str


class ClientError(Exception):
    """Root of the errors a client raises."""


class Unreachable(ClientError):
    """No answer from the address."""


class Misunderstood(ClientError):
    """The answer is not what this version of the client knows."""


class Refused(ClientError):
    """The API refused the request, or the job failed; `problem` is its answer."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Picture(NamedTuple):
    """A PNG with the seed and the job that made it."""

    png: bytes
    seed: int
    job_id: str

    def save(self, path: str | Path) -> None:
        """Writes the PNG, which carries its request and diagnostics as text."""
        Path(path).write_bytes(self.png)


def credentials(api_key: str | None) -> dict[str, str]:
    """The header with the key, or with that of EBBTIDE_API_KEY where none is given."""
    key = os.environ.get("EBBTIDE_API_KEY", "") if api_key is None else api_key
    return {"Authorization": f"Bearer {key}"} if key else {}


def timeouts(timeout_s: float) -> httpx.Timeout:
    return httpx.Timeout(timeout_s, connect=5)


def posted(settings: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The body of a request with these settings, and its headers."""
    content = {name.rstrip("_"): value for name, value in settings.items() if name != "idempotency_key"}
    headers = {"Idempotency-Key": settings["idempotency_key"]} if "idempotency_key" in settings else {}
    return {"json": more | content, "headers": headers}


def understood(model: type[Reply], answer: httpx.Response) -> Reply:
    """The body of an answer. Raises Misunderstood."""
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise Misunderstood(f"{answer.url} does not answer as Ebbtide does: {error.errors()[0]['msg']}") from error


def accepted(answer: httpx.Response) -> httpx.Response:
    """An answer that is no error. Raises Refused."""
    if answer.is_error:
        raise refused(answer)
    return answer


def refused(answer: httpx.Response) -> Refused:
    """The problem of an answer; where the answer is no problem document, such as a proxy's, one is made from its status."""
    try:
        return Refused(ProblemDetails.model_validate_json(answer.content))
    except ValidationError:
        detail = f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
        return Refused(ProblemDetails(type="about:blank", title=answer.reason_phrase, status=answer.status_code, detail=detail))


def unreachable(address: str, error: httpx.TransportError) -> Unreachable:
    return Unreachable(f"no answer from {address}: {error}")


def event_of(sent: ServerSentEvent) -> Event | None:
    """An event of a job; None for a comment that keeps the connection alive."""
    return Event.model_validate({"id": sent.id, "name": sent.event, "data": sent.json()}) if sent.data else None


def resumed(last: Event | None) -> dict[str, str]:
    """The header that asks for events after the last one."""
    return {"Last-Event-ID": last.id} if last else {}


def seed_and_job(answer: httpx.Response) -> tuple[int, str]:
    """Of an answer to POST /generate."""
    return int(answer.headers["x-ebbtide-seed"]), answer.headers["x-ebbtide-job"]


def stored(folder: str | Path, card: bytes, weights: bytes, digest: str) -> Path:
    """Writes a checkpoint's files; returns the folder. Raises Misunderstood where `digest` is not the sha256 of the weights."""
    if hashlib.sha256(weights).hexdigest() != digest:
        raise Misunderstood("the weights that came are not those the card describes")
    Path(folder).mkdir(parents=True, exist_ok=True)
    (Path(folder) / "weights.safetensors").write_bytes(weights)
    (Path(folder) / "card.json").write_bytes(card)
    return Path(folder)


def picture_link(job: JobReply) -> str:
    """The path of a job's picture; of a job that has none, the answer says why."""
    return job.links.grid or f"/jobs/{job.id}/images/0"


def image_links(job: JobReply) -> tuple[str, ...]:
    return job.links.images or (f"/jobs/{job.id}/images/0",)


def seed_of(job: JobReply) -> int:
    assert isinstance(job.job, GenerateJob)
    return job.job.seed
