"""Whether a log ratio d is honest: among images that it calls real with probability σ(d), that share should be real.

The plot shows it bin by bin; expected calibration error is its mean distance from the diagonal  (Naeini et al. 2015). Both samples have
weight ½ here, whatever their sizes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from models.calibration.logistic import balanced
from models.images import encode_png

BINS = 15
SIDE, MARGIN = 360, 48  # pixels of the plot's square, and around it
INK, GREY, BLUE, PALE = (34, 34, 34), (200, 200, 200), (31, 97, 171), (222, 233, 245)


class Reliability(NamedTuple):
    """What was said and what was true, in bins of equal weight."""

    said: Tensor  # (bins,) mean probability of being real
    true: Tensor  # (bins,) share of real images
    weight: Tensor  # (bins,) sums to 1
    error: Tensor  # (bins,) standard error of the share

    @classmethod
    def of(cls, real: Tensor, fake: Tensor) -> Reliability:
        """Of log ratios, (real,) and (fake,)."""
        said, is_real, weight = balanced(real.double().sigmoid(), fake.double().sigmoid()).sorted()
        place = ((weight.cumsum(0) - weight / 2) * BINS).long().clamp(0, BINS - 1)
        total = torch.zeros(BINS, dtype=torch.float64)
        mass = total.index_add(0, place, weight)
        share = total.index_add(0, place, weight * is_real) / mass
        effective = mass.square() / total.index_add(0, place, weight.square())
        return cls(total.index_add(0, place, weight * said) / mass, share, mass, (share * (1 - share) / effective).sqrt())

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0 to 1."""
        return float((self.weight * (self.said - self.true).abs()).sum())

    def png(self, title: str) -> bytes:
        """A picture: what was said along, what was true upwards, with two standard errors; honest points lie on the diagonal."""
        picture = Image.new("RGB", (SIDE + 2 * MARGIN, SIDE + 2 * MARGIN), "white")
        draw = ImageDraw.Draw(picture)
        _frame(draw, title)
        points = list(zip(self.said.tolist(), self.true.tolist(), self.error.tolist(), strict=True))
        for said, true, error in points:
            x, low = _at(said, max(true - 2 * error, 0))
            _, high = _at(said, min(true + 2 * error, 1))
            draw.line([(x, low), (x, high)], fill=BLUE, width=2)
        for said, true, _ in points:
            x, y = _at(said, true)
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=BLUE)
        return encode_png(np.asarray(picture), {"Software": "Ebbtide"})


def _frame(draw: ImageDraw.ImageDraw, title: str) -> None:
    """Axes, ticks, the diagonal and words."""
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        draw.line([_at(tick, 0), _at(tick, 1)], fill=PALE)
        draw.line([_at(0, tick), _at(1, tick)], fill=PALE)
        (x, bottom), (left, y) = _at(tick, 0), _at(0, tick)
        draw.text((x, bottom + 5), f"{tick:g}", fill=INK, anchor="mt")
        draw.text((left - 6, y), f"{tick:g}", fill=INK, anchor="rm")
    draw.rectangle([_at(0, 1), _at(1, 0)], outline=GREY)
    draw.line([_at(0, 0), _at(1, 1)], fill=GREY)
    draw.text((MARGIN + SIDE // 2, MARGIN // 2), title, fill=INK, anchor="mm")
    draw.text((MARGIN + SIDE // 2, SIDE + MARGIN + 32), "probability of being real, by the log ratio", fill=INK, anchor="mm")
    draw.text((MARGIN, MARGIN - 12), "share of real test images", fill=INK, anchor="lm")


def _at(said: float, true: float) -> tuple[float, float]:
    """Pixels of a point of the unit square."""
    return MARGIN + SIDE * said, MARGIN + SIDE * (1 - true)
