"""Networks trained together and the objective that trains them, one family a file: the folder is the registry."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from models.families.base import Family


def names() -> tuple[str, ...]:
    """Every family that can be named; costs no torch."""
    return tuple(sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != "base"))


def family(name: str) -> Family:
    """The family of that name. Raises ValueError where there is none."""
    if name not in names():
        raise ValueError(f"unknown family {name!r}; there are: {', '.join(names())}")
    found: Family = importlib.import_module(f"{__name__}.{name.replace('-', '_')}").FAMILY
    return found
