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
    open_metrics: bool = Field(False, description="whether /metrics needs no key")
    allowed_hosts: tuple[str, ...] = Field(
        (), description="names this server is called by, as a JSON list; localhost, its own name and addresses need none; * for any"
    )
    cors_origins: tuple[str, ...] = Field((), description="origins whose pages may call the API, as a JSON list; * for all")
    max_body_bytes: int = Field(64 * 1024, ge=1024, description="largest request body")
    max_image_bytes: int = Field(16 << 20, ge=1024, description="largest picture that a request may send")
    max_backlog_chain_steps: int = Field(
        5_000_000, ge=1, description="longest backlog, in chain-steps; jobs beyond it are refused with 429"
    )
    max_training_steps: int = Field(1_000_000, ge=1, description="most steps of a training run")
    max_training_parameters: int = Field(100_000_000, ge=1, description="most parameters of all networks of a training run")
    max_training_bytes: int = Field(6 << 30, ge=1, description="most memory that a training run may take, as estimated")
    max_training_tflop: int = Field(
        10_000, ge=1, description="most floating-point operations of a training or calibration run, in 10^12, as estimated"
    )
    max_training_backlog: int = Field(100, ge=1, description="most training and calibration jobs that wait")
    max_training_backlog_tflop: int = Field(50_000, ge=1, description="most operations that they ask for together, in 10^12")
    max_result_bytes: int = Field(2 << 30, ge=1, description="most bytes kept of all jobs, from submission until results expire")
    max_caller_result_bytes: int = Field(1 << 30, ge=1, description="most bytes kept of the jobs of one caller")
    valkey_bytes: int = Field(3 << 30, ge=0, description="memory of the Valkey that `ebbtide up` starts; 0 for any")
    wait_s: float = Field(900, gt=0, description="how long POST /generate waits without a Prefer header")
    event_poll_s: float = Field(0.2, gt=0, description="seconds between two reads of an open event stream")
    worker_look_s: float = Field(2, ge=0, description="seconds for which a worker seen alive counts as alive")
