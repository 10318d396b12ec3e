"""Networks trained together and the objective that trains them, one family a file: the folder is the registry. Importable without torch."""

from collections.abc import Mapping
from typing import Any

from models.families.base import Family
from models.registry import classes

FAMILIES: dict[str, type[Family]] = classes(__name__, __path__, Family)


def names() -> tuple[str, ...]:
    """Every family there is, by the name of its file."""
    return tuple(FAMILIES)


def family(name: str, options: Mapping[str, Any] | None = None) -> Family:
    """The family of that name with these options, defaults for the rest. Raises ValueError for an unknown name or a wrong option."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; there are: {', '.join(names())}")
    return FAMILIES[name].model_validate(options or {})
