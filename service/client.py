"""A typed Python client of the HTTP API.

    with Client() as ebbtide:
        ebbtide.generate("mnist-sngan", num_images=16, seed=7).save("digits.png")

Errors:

    ClientError
    ├── Unreachable    no answer from the address
    ├── Misunderstood  the answer is not what this version of the client knows
    └── Refused        the API refused the request; `.problem` names field, value and choices
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self, TypedDict, TypeVar, Unpack, overload

import httpx
from httpx_sse import EventSource
from pydantic import BaseModel, ValidationError

from service.protocol.schemas import JobList, JobReply, ModelList, ModelReply, ProblemDetails
from workers.jobs import Event, GenerateJob, Layout, Priority

DEFAULT_ADDRESS = "http://127.0.0.1:8000"
QUIET_LIMIT_S = 60.0  # the API sends a comment every 15 s
Reply = TypeVar("Reply", bound=BaseModel)


class GenerateSettings(TypedDict, total=False):
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


class TrainSettings(TypedDict, total=False):
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


class CalibrateSettings(TypedDict, total=False):
    """Optional fields of POST /models/{name}/calibrate."""

    method: str
    options: dict[str, Any]
    dataset: str
    seed: int
    promote: bool


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


class Client:
    """One API, over one connection pool; safe to use from threads."""

    def __init__(
        self,
        address: str = DEFAULT_ADDRESS,
        *,
        api_key: str | None = None,
        timeout_s: float = 900,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`api_key` is that of the environment, EBBTIDE_API_KEY, unless given."""
        self.address = address
        key = os.environ.get("EBBTIDE_API_KEY", "") if api_key is None else api_key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=address, headers=headers, timeout=httpx.Timeout(timeout_s, connect=5), transport=transport)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @overload
    def generate(self, model: str, *, layout: Literal["grid"] = "grid", **settings: Unpack[GenerateSettings]) -> Picture: ...

    @overload
    def generate(self, model: str, *, layout: Literal["images"], **settings: Unpack[GenerateSettings]) -> tuple[Picture, ...]: ...

    def generate(self, model: str, *, layout: Layout = "grid", **settings: Unpack[GenerateSettings]) -> Picture | tuple[Picture, ...]:
        """Waits for the images and returns them as one picture, or with `layout="images"` one by one.

        Raises Refused where the job is refused, fails or is canceled.
        """
        if layout == "images":
            return self.pictures(self.wait(self.submit(model, layout=layout, **settings).id))
        answer = self._send("POST", "/generate", json=_body(model, {**settings, "layout": layout}), headers={"Accept": "image/png"})
        seed, job_id = int(answer.headers["x-ebbtide-seed"]), answer.headers["x-ebbtide-job"]
        if answer.status_code == httpx.codes.OK:
            return Picture(answer.content, seed, job_id)
        return self.picture(self.wait(job_id))  # the API answered 202: the job goes on

    def submit(self, model: str, **settings: Unpack[SubmitSettings]) -> JobReply:
        """Enqueues the job and returns at once."""
        return self._read(JobReply, "POST", "/generate", json=_body(model, settings), headers={"Prefer": "respond-async"})

    def train(self, name: str, family: str, dataset: str, **settings: Unpack[TrainSettings]) -> JobReply:
        """Enqueues a training job and returns at once."""
        return self._read(JobReply, "POST", "/train", json={"name": name, "family": family, "dataset": dataset, **settings})

    def calibrate(self, reference: str, **settings: Unpack[CalibrateSettings]) -> JobReply:
        """Enqueues a job that calibrates `name` or `name@version` anew, and returns at once."""
        return self._read(JobReply, "POST", f"/models/{reference}/calibrate", json=settings)

    def job(self, job_id: str) -> JobReply:
        """Status, progress and result of a job."""
        return self._read(JobReply, "GET", f"/jobs/{job_id}")

    def jobs(self, limit: int = 50) -> tuple[JobReply, ...]:
        """Recent jobs, newest first."""
        return self._read(JobList, "GET", "/jobs", params={"limit": limit}).jobs

    def cancel(self, job_id: str) -> JobReply:
        """Cancels a job, queued or running."""
        return self._read(JobReply, "DELETE", f"/jobs/{job_id}")

    def wait(self, job_id: str, on_event: Callable[[Event], None] = lambda _: None) -> JobReply:
        """Waits until the job is over and returns it; calls `on_event` with each of its events."""
        for event in self.events(job_id):
            on_event(event)
        return self.job(job_id)

    def picture(self, job: JobReply) -> Picture:
        """The picture of a finished job. Raises Refused if the job has none."""
        assert isinstance(job.job, GenerateJob)
        png = self._send("GET", job.links.grid or f"/jobs/{job.id}/images/0").content
        return Picture(png, job.job.seed, job.id)

    def pictures(self, job: JobReply) -> tuple[Picture, ...]:
        """Each image of a finished job. Raises Refused if the job has none."""
        assert isinstance(job.job, GenerateJob)
        links = job.links.images or (f"/jobs/{job.id}/images/0",)  # of a job that has none, the answer says why
        return tuple(Picture(self._send("GET", link).content, job.job.seed, job.id) for link in links)

    def image(self, job_id: str, index: int) -> bytes:
        """One image of a job, as PNG."""
        return self._send("GET", f"/jobs/{job_id}/images/{index}").content

    def models(self) -> tuple[ModelReply, ...]:
        """The default version of each model."""
        return self._read(ModelList, "GET", "/models").models

    def model(self, reference: str) -> ModelReply:
        """The card of `name` or `name@version`."""
        return self._read(ModelReply, "GET", f"/models/{reference}")

    def promote(self, reference: str) -> ModelReply:
        """Makes `name@version` the version that requests without one get; returns its card."""
        return self._read(ModelReply, "POST", f"/models/{reference}/promote")

    def delete(self, reference: str) -> None:
        """Deletes `name@version`, which must not be the default."""
        self._send("DELETE", f"/models/{reference}")

    def events(self, job_id: str) -> Iterator[Event]:
        """The events of a job from first to last; a broken stream is resumed after the last event received."""
        last: Event | None = None
        while last is None or last.name != "end":
            before = last
            with contextlib.suppress(httpx.TransportError):  # an API that is down fails at `self.job`
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
            if answer.status_code == httpx.codes.NO_CONTENT:  # no event can follow
                return
            for event in EventSource(answer).iter_sse():
                if event.data:  # a comment that keeps the connection alive has none
                    yield Event.model_validate({"id": event.id, "name": event.event, "data": event.json()})

    def _read(self, model: type[Reply], method: str, path: str, **options: Any) -> Reply:
        answer = self._send(method, path, **options)
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise Misunderstood(f"{answer.url} does not answer as Ebbtide does: {error.errors()[0]['msg']}") from error

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            answer = self._http.request(method, path, **options)
        except httpx.TransportError as error:
            raise Unreachable(f"no answer from {self.address}: {error}") from error
        if answer.is_error:
            raise _refused(answer)
        return answer


def _body(model: str, settings: SubmitSettings) -> dict[str, Any]:
    return {"model": model, **{name.rstrip("_"): value for name, value in settings.items()}}


def _refused(answer: httpx.Response) -> Refused:
    """The problem of an answer; where the answer is no problem document, such as a proxy's, one is made from its status."""
    try:
        return Refused(ProblemDetails.model_validate_json(answer.content))
    except ValidationError:
        detail = f"{answer.status_code} {answer.reason_phrase} from {answer.url}"
        return Refused(ProblemDetails(type="about:blank", title=answer.reason_phrase, status=answer.status_code, detail=detail))
