"""From a job's images to its PNG files, each carrying the whole request: the same request always gives the same bytes."""

import functools
import json
from typing import TYPE_CHECKING

from models.images import encode_png, grid
from workers.jobs import Contract, Diagnostics, GenerateJob
from workers.version import version

if TYPE_CHECKING:
    import numpy as np

GRID = "grid.png"


def encode(job: GenerateJob, images: "np.ndarray", diagnostics: Diagnostics, contract: Contract) -> dict[str, bytes]:
    """Every image as `<index>.png`, and where a grid of several was asked for, `grid.png`; images as uint8 (n, height, width, channels)."""
    shared = provenance(job, diagnostics, contract)
    files = {f"{index}.png": encode_png(image, shared | {"image": str(index)}) for index, image in enumerate(images)}
    if job.layout == "grid" and len(images) > 1:
        files[GRID] = encode_png(grid(images), shared | {"image": "grid"})
    return files


def provenance(job: GenerateJob, diagnostics: Diagnostics, contract: Contract) -> dict[str, str]:
    """The text chunks of a job's PNGs: everything that made them and nothing that did not, such as when, for whom or how urgently."""
    request = job.model_dump(mode="json", exclude={"priority", "deadline_s", "caller"})
    return {
        "ebbtide": _canonical(request),
        "seed": str(job.seed),
        "digest": job.digest,
        "diagnostics": _canonical(diagnostics.model_dump(mode="json")),
        "contract": _promised(contract),
        "software": f"ebbtide {version()}",
    }


@functools.lru_cache(maxsize=64)
def _promised(contract: Contract) -> str:
    """The same for most jobs of a worker. (Diagnostics have floats: -0.0 would be found under 0.0.)"""
    return _canonical(contract.model_dump(mode="json"))


_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
