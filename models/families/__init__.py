"""Networks trained together and the objective that trains them, one family a file: the folder is the registry. Importable without torch."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from models.families.base import Family


def _family_in(module_name: str) -> type[Family]:
    """The family that a file of this folder defines."""
    module = importlib.import_module(f"{__name__}.{module_name}")
    found = [f for f in vars(module).values() if isinstance(f, type) and issubclass(f, Family) and f.__module__ == module.__name__]
    if len(found) != 1:
        raise ImportError(f"models/families/{module_name}.py must define one Family, not {len(found)}")
    return found[0]


_FILES = sorted(file.name for file in pkgutil.iter_modules(__path__) if file.name != "base")
FAMILIES: dict[str, type[Family]] = {name.replace("_", "-"): _family_in(name) for name in _FILES}


def names() -> tuple[str, ...]:
    """Every family there is, by the name of its file."""
    return tuple(FAMILIES)


def family(name: str, options: Mapping[str, Any] | None = None) -> Family:
    """The family of that name with these options, defaults for the rest. Raises ValueError for an unknown name or a wrong option."""
    if name not in FAMILIES:
        raise ValueError(f"unknown family {name!r}; there are: {', '.join(names())}")
    return FAMILIES[name].model_validate(options or {})
