"""Settings of the API, in addition to those it shares with the workers."""

from pydantic import Field

from workers.jobs import MAX_IMAGES
from workers.settings import WorkerSettings


class Settings(WorkerSettings):
    """Read once by `create_app` from the environment, as EBBTIDE_<NAME>."""

    max_images: int = Field(MAX_IMAGES, ge=1, le=MAX_IMAGES, description="most images of one request")
    max_connections: int = Field(1000, ge=1, description="connections open at once; beyond them the answer is 503")
    max_header_bytes: int = Field(16 * 1024, ge=1024, le=128 * 1024, description="most bytes of a request's headers")
    max_headers: int = Field(100, ge=10, description="most headers of a request")
    head_timeout_s: float = Field(10, gt=0, description="seconds in which a request's headers must be complete")
    body_timeout_s: float = Field(30, gt=0, description="seconds in which a request's body must be complete")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names this server is called by, as a JSON list; localhost, its own name and addresses need none; * for any"
    )
    cors_origins: tuple[str, ...] = Field((), description="origins whose pages may call the API, as a JSON list; * for all")
    max_body_bytes: int = Field(64 * 1024, ge=1024, description="largest request body")
    max_backlog_chain_steps: int = Field(
        5_000_000, ge=1, description="longest backlog, in chain-steps; jobs beyond it are refused with 429"
    )
    wait_s: float = Field(900, gt=0, description="how long POST /generate waits without a Prefer header")
    event_poll_s: float = Field(0.2, gt=0, description="seconds between two reads of an open event stream")
    worker_look_s: float = Field(2, ge=0, description="seconds for which a worker seen alive counts as alive")
