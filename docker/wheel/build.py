"""Builds the wheel: the package `ebbtide` with the client, the command for remote servers, and what these import of Ebbtide.

`service`, `models` and `workers` are far too common names for site-packages, so that their files become parts of `ebbtide`, and their
imports are rewritten. An editable install, and one without the sources beside it, gets package.py alone, which finds the sources by itself.
"""

import ast
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

OURS = ("service", "models", "workers")
BEGIN = ("service.client", "service.command.remote")
# Packages whose files are found by looking into their folder, not by an import.
REGISTRIES = ("models.kernels", "models.families", "models.datasets", "models.targets")
IMPORT = re.compile(rf"^(\s*)(from|import) ({'|'.join(OURS)})\b", re.M)
PACKAGE = "docker/wheel/package.py"


class Wheel(BuildHookInterface):
    """Called by hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        root = Path(self.root)
        if version == "editable" or not (root / "service" / "client" / "__init__.py").is_file():
            wanted = build_data["force_include_editable" if version == "editable" else "force_include"]
            wanted[str(root / PACKAGE)] = "ebbtide/__init__.py"
            return
        self._folder = tempfile.TemporaryDirectory()
        draft = Path(self._folder.name)
        for source in (root / PACKAGE, *needed(root)):
            target = Path("__init__.py") if source == root / PACKAGE else source.relative_to(root)
            (draft / target).parent.mkdir(parents=True, exist_ok=True)
            (draft / target).write_text(IMPORT.sub(r"\1\2 ebbtide.\3", source.read_text()))
        (draft / "py.typed").touch()
        build_data["force_include"][str(draft)] = "ebbtide"


def needed(root: Path) -> list[Path]:
    """The files that the client and the remote command import when they are imported."""
    found: dict[str, Path] = {}
    waiting = list(BEGIN)
    while waiting:
        name = waiting.pop()
        if name in found or (file := file_of(root, name)) is None:
            continue
        found[name] = file
        waiting += [name.rpartition(".")[0], *imported(file)]
        if name in REGISTRIES:
            waiting += [f"{name}.{path.stem}" for path in file.parent.glob("*.py") if path.stem != "__init__"]
    return list(found.values())


def file_of(root: Path, name: str) -> Path | None:
    """The file of a module or package; None for a name that is neither."""
    path = root / name.replace(".", "/")
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if name and file.is_file()), None)


def imported(file: Path) -> Iterator[str]:
    """What a file of ours imports of ours at its top level; `from a import b` gives a and a.b."""
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in OURS:
            yield from (node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names))
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] in OURS)
