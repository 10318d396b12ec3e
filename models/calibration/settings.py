"""The methods of calibration and their settings, importable without torch: a name in a request chooses one of them."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from models.cards import Frozen

Strength = Annotated[float, Field(ge=0, le=10)]  # of noise on images in [-1, 1]


class Logistic(Frozen):
    """log ratio = slope · s + intercept of the critic's output s, by logistic regression  (Platt 1999)."""

    method: Literal["logistic"] = "logistic"


class Isotonic(Frozen):
    """log ratio = a non-decreasing function of the critic's output, linear between knots and constant beyond (Zadrozny & Elkan 2002)."""

    method: Literal["isotonic"] = "isotonic"


class RatioHead(Frozen):
    """A network of its own, trained to tell real images from the generator's; the snapshot with the lowest FID on `validation` is kept."""

    method: Literal["ratio-head"] = "ratio-head"
    noise_first: Strength | None = Field(
        None,
        description="at the first step, the highest standard deviation of the noise added to real and generated images; "
        "without one, 1 for images and 0 for points of the plane",
    )
    noise_last: Strength = Field(0.0, description="at the last step; in between it changes evenly")
    shifts: float = Field(1 / 14, ge=0, le=0.25, description="farthest shift of the images, as a share of their side")
    steps: int = Field(2400, ge=1, le=100_000, description="training steps of one head")
    heads: int = Field(1, ge=1, le=4, description="heads with different first weights, whose mean is the log ratio")
    stages: int = Field(
        1, ge=1, le=2, description="2: another head is fitted on clean images to what the first one leaves; their sum is the log ratio"
    )


Method: TypeAlias = Annotated[Logistic | Isotonic | RatioHead, Field(discriminator="method")]
METHODS: dict[str, type[Logistic | Isotonic | RatioHead]] = {"ratio-head": RatioHead, "logistic": Logistic, "isotonic": Isotonic}
