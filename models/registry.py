"""A folder as a registry: each file but `base.py` and `*_base.py` is one entry, named like the file with hyphens for underscores."""

import importlib
import pkgutil
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")


def names(path: Iterable[str]) -> tuple[str, ...]:
    """The entries of a package with that `__path__`; imports none of them."""
    return tuple(sorted(file.name.replace("_", "-") for file in pkgutil.iter_modules(path) if file.name.rpartition("_")[2] != "base"))


def classes(package: str, path: Iterable[str], kind: type[T]) -> dict[str, type[T]]:
    """The one subclass of `kind` that each file of the package defines, by name. Raises ImportError where a file has none or several."""
    return {name: _class_in(f"{package}.{name.replace('-', '_')}", kind) for name in names(path)}


def _class_in(module_name: str, kind: type[T]) -> type[T]:
    module = importlib.import_module(module_name)
    found = [
        entry for entry in vars(module).values() if isinstance(entry, type) and issubclass(entry, kind) and entry.__module__ == module_name
    ]
    if len(found) != 1:
        raise ImportError(f"{module_name} must define one {kind.__name__}, not {len(found)}")
    return found[0]
