"""A job as an HTTP answer: its view with links, its picture, a ZIP of its images, or a refusal."""

import io
import zipfile
from base64 import b64encode
from collections.abc import Callable
from typing import Any, Protocol

from fastapi import Request, Response
from PIL import Image

from service.protocol.errors import Refusal
from service.protocol.negotiation import JSON, OCTETS, PNG, WEBP, ZIP, acceptable
from service.protocol.schemas import JobLinks, JobReply
from service.protocol.semantics import tagged
from workers.jobs import GenerateJob, GenerateResult, JobView, Status

GRID = "grid.png"
IMMUTABLE = {"Cache-Control": "private, max-age=31536000, immutable"}  # a job's images never change
ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the same images give the same bytes


class JobSource(Protocol):
    """Reads jobs and their files; `admission.dependencies.Dependencies` is one."""

    async def job(self, job_id: str) -> JobView: ...

    async def image(self, job_id: str, name: str) -> bytes | None: ...

    async def off_loop(self, call: Callable[[], Any]) -> Any: ...


def address(job_id: str) -> str:
    """The path of a job."""
    return f"/jobs/{job_id}"


def picture(job: GenerateJob) -> str:
    """The file that shows all images of a job."""
    return GRID if job.num_images > 1 else "0.png"


def offers(job: GenerateJob) -> tuple[str, ...]:
    """The media types of a finished job, the default first; PNG and WebP only where one picture shows all images."""
    return (ZIP, JSON, OCTETS) if job.layout == "images" and job.num_images > 1 else (PNG, JSON, ZIP, WEBP, OCTETS)


def image_address(job_id: str, name: str) -> str:
    """The path of one of a job's images."""
    return f"{address(job_id)}/images/{name.removesuffix('.png')}"


def artifact_address(job_id: str, name: str) -> str:
    """The path of a named file of a job."""
    return f"{address(job_id)}/artifacts/{name}"


def reply(view: JobView, eta_s: float | None = None) -> JobReply:
    """A job with its links, without its caller, which may be an IP address; `eta_s` estimates the seconds it still needs."""
    job = view.job.model_copy(update=dict.fromkeys(view.job.aside, ""))
    fields = {name: getattr(view, name) for name in JobView.model_fields} | {"job": job}
    return JobReply(**fields, eta_s=eta_s, links=_links(view))


def _links(view: JobView) -> JobLinks:
    here = address(view.id)
    files = view.result.artifacts if view.result else ()
    if not isinstance(view.result, GenerateResult):
        return JobLinks(self=here, events=f"{here}/events", artifacts=tuple(artifact_address(view.id, name) for name in files))
    images = tuple(image_address(view.id, name) for name in files if name != GRID)
    return JobLinks(self=here, events=f"{here}/events", images=images, grid=image_address(view.id, GRID) if GRID in files else None)


def refuse_unfinished(view: JobView) -> None:
    """Raises Refusal with the reason why a job has no images; returns where it has finished."""
    here = address(view.id)
    if not view.status.over:
        raise Refusal("no-image", f"the job is {view.status}; its images are not there yet", job=here)
    if view.problem is not None:
        raise Refusal(view.problem.reason, view.problem.detail, job=here)
    if view.status is not Status.FINISHED:
        raise Refusal("canceled" if view.status is Status.CANCELED else "internal", f"the job is {view.status}", job=here)


async def stored(source: JobSource, request: Request, job_id: str, name: str) -> Response:
    """One file of a job at an address of its own, which never changes; 304 where the client has it. Raises Refusal where there is none."""
    media = acceptable(request.headers.get("accept"), (PNG, WEBP, OCTETS)) or PNG
    response = await picture_response(source, job_id, name, IMMUTABLE | {"Vary": "Accept"}, WEBP if media == WEBP else PNG)
    response.headers["Content-Type"] = media
    return tagged(request, response, f"{job_id}/{name}{'.webp' if media == WEBP else ''}")


async def picture_response(source: JobSource, job_id: str, name: str, headers: dict[str, str], media: str = PNG) -> Response:
    """One picture of a job, as PNG or WebP. Raises Refusal where there is none."""
    content = await source.image(job_id, name)
    if content is not None:
        return await as_media(source, content, headers, media)
    view = await source.job(job_id)
    refuse_unfinished(view)
    if view.result and name in view.result.artifacts:
        raise Refusal("image-gone", f"{name} of this job is no longer kept", job=address(job_id))
    raise Refusal("no-image", f"this job has no {name}", job=address(job_id))


async def as_media(source: JobSource, png: bytes, headers: dict[str, str], media: str) -> Response:
    """A picture as PNG, or with the same pixels as WebP, which carries no text."""
    return Response(png if media == PNG else await source.off_loop(lambda: _webp(png)), media_type=media, headers=headers)


def _webp(png: bytes) -> bytes:
    file = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        picture.save(file, "WEBP", lossless=True, quality=0)
    return file.getvalue()


async def in_base64(source: JobSource, view: JobView) -> tuple[str, ...]:
    """Each image of a finished job. Raises Refusal where one is no longer kept."""
    names = [name for name in (view.result.artifacts if view.result else ()) if name != GRID]
    return tuple([b64encode(await _kept(source, view, name)).decode() for name in names])


async def _kept(source: JobSource, view: JobView, name: str) -> bytes:
    content = await source.image(view.id, name)
    if content is None:
        raise Refusal("image-gone", f"{name} of this job is no longer kept", job=address(view.id))
    return content


async def zip_response(source: JobSource, view: JobView, headers: dict[str, str]) -> Response:
    """All images of a finished job. Raises Refusal where it has none."""
    refuse_unfinished(view)
    names = view.result.artifacts if view.result else ()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed already
        for name in names:
            archive.writestr(zipfile.ZipInfo(name, ZIP_DATE), await _kept(source, view, name))
    disposition = {"Content-Disposition": f'attachment; filename="{view.id}.zip"'}
    return Response(buffer.getvalue(), media_type=ZIP, headers=headers | disposition)
