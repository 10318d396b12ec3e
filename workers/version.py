"""Which Ebbtide this is: the installed version, or that of the source tree it runs from."""

import importlib.metadata
import tomllib
from functools import cache
from pathlib import Path


@cache
def version() -> str:
    """As pyproject.toml has it; "unknown" where neither metadata nor that file came along."""
    try:
        return importlib.metadata.version("ebbtide")
    except importlib.metadata.PackageNotFoundError:
        pyproject = Path(__file__).parents[1] / "pyproject.toml"
        return str(tomllib.loads(pyproject.read_text())["project"]["version"]) if pyproject.is_file() else "unknown"
