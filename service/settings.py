"""What the API can be told from outside, on top of the settings it shares with the workers."""

from pydantic import Field

from workers.jobs import MAX_IMAGES
from workers.settings import WorkerSettings


class Settings(WorkerSettings):
    """Read once by `create_app`; every name may be set as EBBTIDE_<NAME>."""

    max_images: int = Field(MAX_IMAGES, ge=1, le=MAX_IMAGES, description="images that one request may ask for")
    max_body_bytes: int = Field(64 * 1024, ge=1024, description="largest request body")
    max_backlog_chain_steps: int = Field(5_000_000, ge=1, description="chain-steps that may wait; beyond it, 429")
    wait_s: float = Field(900, gt=0, description="how long POST /generate waits when no Prefer header says otherwise")
    event_poll_s: float = Field(0.2, gt=0, description="how often an open event stream looks for news")
    worker_look_s: float = Field(2, ge=0, description="how long a sighting of a worker is believed")
