"""A typed Python client: the same requests as curl's, the same words in and out.

    with Client() as ebbtide:
        ebbtide.generate("mnist-sngan", num_images=16, seed=7).save("digits.png")

Errors:

    ClientError
    ├── Unreachable    nobody answers at the address
    └── Refused        the API said no; `.problem` names field, value and choices
"""

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypedDict, TypeVar, Unpack

import httpx
from pydantic import BaseModel, ValidationError

from service.protocol.schemas import JobList, JobReply, ModelList, ModelReply, ProblemDetails
from workers.jobs import Event, GenerateJob, Layout, Priority

HERE = "http://127.0.0.1:8000"
QUIET_LIMIT_S = 60.0  # the API sends a sign of life every 15 s
Reply = TypeVar("Reply", bound=BaseModel)


class GenerateSettings(TypedDict, total=False):
    """What POST /generate takes beside the model."""

    sampler: str
    mcmc: dict[str, Any]
    num_images: int
    seed: int
    layout: Layout
    priority: Priority
    deadline_s: float


class TrainSettings(TypedDict, total=False):
    """What POST /train takes beside name, family and dataset."""

    steps: int
    batch_size: int
    width: int
    latent_size: int
    seed: int
    calibrate: bool
    options: dict[str, Any]


class ClientError(Exception):
    """Root of what a client raises."""


class Unreachable(ClientError):
    """Nobody answers at the address."""


class Refused(ClientError):
    """The API's answer is a problem."""

    def __init__(self, problem: ProblemDetails) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Picture(NamedTuple):
    """A PNG with what is needed to draw it again."""

    png: bytes
    seed: int
    job_id: str

    def save(self, path: str | Path) -> None:
        """Writes the PNG, which carries its request and diagnostics as text."""
        Path(path).write_bytes(self.png)


class Client:
    """One API, over one connection pool; safe to use from threads."""

    def __init__(self, address: str = HERE, *, timeout_s: float = 900, transport: httpx.BaseTransport | None = None) -> None:
        self.address = address
        self._http = httpx.Client(base_url=address, timeout=httpx.Timeout(timeout_s, connect=5), transport=transport)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def generate(self, model: str, **settings: Unpack[GenerateSettings]) -> Picture:
        """One picture of all images asked for, when they are drawn; a job refused, failed or canceled raises Refused."""
        body = {"model": model, **settings, "layout": "grid"}
        answer = self._send("POST", "/generate", json=body, headers={"Accept": "image/png"})
        seed, job_id = int(answer.headers["x-ebbtide-seed"]), answer.headers["x-ebbtide-job"]
        if answer.status_code == httpx.codes.OK:
            return Picture(answer.content, seed, job_id)
        return self.picture(self.wait(job_id))  # the API's patience ended, the job goes on

    def submit(self, model: str, **settings: Unpack[GenerateSettings]) -> JobReply:
        """Queues the images and returns at once."""
        return self._read(JobReply, "POST", "/generate", json={"model": model, **settings}, headers={"Prefer": "respond-async"})

    def train(self, name: str, family: str, dataset: str, **settings: Unpack[TrainSettings]) -> JobReply:
        """Queues a training and returns at once."""
        return self._read(JobReply, "POST", "/train", json={"name": name, "family": family, "dataset": dataset, **settings})

    def job(self, job_id: str) -> JobReply:
        """What is known of a job."""
        return self._read(JobReply, "GET", f"/jobs/{job_id}")

    def jobs(self, limit: int = 50) -> tuple[JobReply, ...]:
        """Recent jobs, newest first."""
        return self._read(JobList, "GET", "/jobs", params={"limit": limit}).jobs

    def cancel(self, job_id: str) -> JobReply:
        """Cancels a job, queued or running."""
        return self._read(JobReply, "DELETE", f"/jobs/{job_id}")

    def wait(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> JobReply:
        """The job once it is over, however long that takes; tells of every event on the way."""
        for event in self.events(job_id):
            on_event(event)
        return self.job(job_id)

    def picture(self, job: JobReply) -> Picture:
        """The picture of a finished job. Raises Refused where it has none."""
        assert isinstance(job.job, GenerateJob)
        png = self._send("GET", job.links.grid or f"/jobs/{job.id}/images/0").content
        return Picture(png, job.job.seed, job.id)

    def image(self, job_id: str, index: int) -> bytes:
        """One image of a job, a PNG."""
        return self._send("GET", f"/jobs/{job_id}/images/{index}").content

    def models(self) -> tuple[ModelReply, ...]:
        """The newest version of each model."""
        return self._read(ModelList, "GET", "/models").models

    def model(self, reference: str) -> ModelReply:
        """The card of `name` or `name@version`."""
        return self._read(ModelReply, "GET", f"/models/{reference}")

    def events(self, job_id: str) -> Iterator[Event]:
        """What happens to a job, from its first event to its last; takes up a broken stream where it broke."""
        last: Event | None = None
        while last is None or last.name != "end":
            before = last
            with contextlib.suppress(httpx.TransportError):  # an API that is gone fails the look below
                for event in self._stream(job_id, last):
                    last = event
                    yield event
            if last is before:
                if self.job(job_id).status.over:
                    return
                time.sleep(0.2)

    def _stream(self, job_id: str, last: Event | None) -> Iterator[Event]:
        headers = {"Last-Event-ID": last.id} if last else {}
        with self._http.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=QUIET_LIMIT_S) as answer:
            if answer.is_error:
                answer.read()
                raise _refused(answer)
            yield from _parsed(answer.iter_lines())

    def _read(self, model: type[Reply], method: str, path: str, **options: Any) -> Reply:
        return model.model_validate_json(self._send(method, path, **options).content)

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(f"no answer from {self.address}: {error}") from error
        if answer.is_error:
            raise _refused(answer)
        return answer


def _refused(answer: httpx.Response) -> Refused:
    """The problem an answer holds; one made up where something between us and the API answered in its own words."""
    try:
        return Refused(ProblemDetails.model_validate_json(answer.content))
    except ValidationError:
        detail = f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
        return Refused(ProblemDetails(type="about:blank", title=answer.reason_phrase, status=answer.status_code, detail=detail))


def _parsed(lines: Iterable[str]) -> Iterator[Event]:
    """Server-sent events from their lines; comments are signs of life."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(": ")
        if name:
            fields[name] = value
        elif line == "":
            if "event" in fields:
                yield Event.model_validate({"id": fields["id"], "name": fields["event"], "data": json.loads(fields["data"])})
            fields = {}
