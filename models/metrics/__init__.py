"""Figures for sample quality, one metric a file: the folder is the registry, and publication measures all of them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from models import registry

if TYPE_CHECKING:
    from models.metrics.base import Measure

_NAMES = registry.names(__path__)


def names() -> tuple[str, ...]:
    """Every metric there is, by the name of its file."""
    return _NAMES


def load(name: str) -> Measure:
    """The function `measure` of a metric's file."""
    measure: Measure = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").measure
    return measure
