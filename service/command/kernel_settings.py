"""Kernel settings on the command line: `--set NAME=VALUE`, and the list of them that --help shows."""

from collections.abc import Mapping, Sequence
from typing import Any

import typer

from models.kernels import KERNELS
from workers.assignments import parse_assignments


def parse_settings(pairs: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `--set` options and those of options of their own, such as `--steps`; None there means not given.

    Raises typer.BadParameter where a pair is no NAME=VALUE or a name is given twice.
    """
    settings = {name: value for name, value in named.items() if value is not None}
    try:
        assigned = parse_assignments(pairs)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--set") from None
    for name in assigned.keys() & settings.keys():
        raise typer.BadParameter(f"{name} is given twice", param_hint="--set")
    return settings | assigned


def list_settings() -> str:
    """Each kernel with its settings and their defaults, one paragraph a kernel."""
    return "\n\n".join(["Kernels and their settings:", *(f"{name}: {_defaults(name)}" for name in KERNELS)])


def _defaults(kernel: str) -> str:
    fields = KERNELS[kernel].model_fields.items()
    return ", ".join(f"{name}={field.default}" for name, field in fields if name != "kernel")
