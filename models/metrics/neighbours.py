"""`precision` and `recall` (Kynkäänniemi et al. 2019), `density` and `coverage` (Naeem et al. 2020): whose neighbours contain whom.

The ball of an image reaches to its k-th nearest neighbour among the images of its own set, in features. Precision is the share of draws
in the ball of some real image, recall the share of real images in the ball of some draw, density the mean number of real images whose
ball a draw is in over k, and coverage the share of real images whose ball has a draw in it.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.metrics.base import Draws, Reference

MOST = 5000  # images of each set
K = 5
ROWS = 1000  # rows of a matrix of distances that are held at once


def measure(draws: Draws, reference: Reference) -> dict[str, float]:
    """On the first images of both sets, as many as the smaller has, at most `MOST`; none where a set has no `K` neighbours."""
    drawn, real = draws.features(reference.extractor), reference.features
    count = min(MOST, len(drawn), len(real))
    if count <= K:
        return {}
    radii = reference.once(f"radii of {count}", lambda: reach(real[:count]))
    return of_features(drawn[:count], real[:count], radii)


def of_features(drawn: Tensor, real: Tensor, radii: Tensor) -> dict[str, float]:
    """All four figures of features, (draws, features) and (real, features); `radii`, (real,), are those of the real images' balls."""
    own = reach(drawn)
    inside = [distances <= radii for distances in _distances(drawn, real)]
    covered = torch.stack([rows.any(0) for rows in inside]).any(0)
    recalled = torch.cat([(distances <= own).any(1) for distances in _distances(real, drawn)])
    held = torch.cat([rows.sum(1) for rows in inside])  # (draws,) the real images whose ball a draw is in
    return {
        "precision": float((held > 0).double().mean()),
        "recall": float(recalled.double().mean()),
        "density": float(held.double().mean() / K),
        "coverage": float(covered.double().mean()),
    }


def reach(features: Tensor) -> Tensor:
    """Distance of each row to its k-th nearest other row: (rows, features) to (rows,)."""
    return torch.cat([distances.kthvalue(K + 1, dim=1).values for distances in _distances(features, features)])


def _distances(rows: Tensor, columns: Tensor) -> Iterator[Tensor]:
    """Euclidean distances of rows to columns, a block of rows at a time, exact also where they are small."""
    for block in rows.double().split(ROWS):
        yield torch.cdist(block, columns.double())
