"""Figures for sample quality, one measurement a file: the folder is the registry, and publication takes all of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Literal, TypeAlias

from models import registry

if TYPE_CHECKING:
    from types import ModuleType

    from models.metrics.base import Measure

Compared: TypeAlias = Literal["features", "pixels", "reconstructions"]
_NAMES = registry.names(__path__)


def names() -> tuple[str, ...]:
    """Every metric there is, by the name of its file."""
    return _NAMES


def load(name: str) -> Measure:
    """The function `measure` of a metric's file."""
    measure: Measure = _module(name).measure
    return measure


def compared(name: str) -> Compared:
    """What a metric compares with the reference: features of samples, unless its file says other in `COMPARED`."""
    found: Compared = getattr(_module(name), "COMPARED", "features")
    return found


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
