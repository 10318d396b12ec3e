"""From a job's images to its PNG files, each carrying the whole request: the same request always gives the same bytes."""

import json
from typing import TYPE_CHECKING

from models.images import encode_png, grid
from workers.jobs import Diagnostics, GenerateJob
from workers.version import version

if TYPE_CHECKING:
    import numpy as np

GRID = "grid.png"


def encode(job: GenerateJob, images: "np.ndarray", diagnostics: Diagnostics) -> dict[str, bytes]:
    """Every image as `<index>.png`, and where a grid of several was asked for, `grid.png`; images as uint8 (n, height, width, channels)."""
    files = {f"{index}.png": encode_png(image, provenance(job, str(index), diagnostics)) for index, image in enumerate(images)}
    if job.layout == "grid" and len(images) > 1:
        files[GRID] = encode_png(grid(images), provenance(job, "grid", diagnostics))
    return files


def provenance(job: GenerateJob, image: str, diagnostics: Diagnostics) -> dict[str, str]:
    """The text chunks of one PNG: everything that made it and nothing that did not, such as when, where, for whom or how urgently."""
    request = job.model_dump(mode="json", exclude={"priority", "deadline_s", "caller"})
    return {
        "ebbtide": _canonical(request),
        "seed": str(job.seed),
        "digest": job.digest,
        "image": image,
        "diagnostics": _canonical(diagnostics.model_dump(mode="json")),
        "software": f"ebbtide {version()}",
    }


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
