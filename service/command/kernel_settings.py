"""Kernel settings on the command line: `--set NAME=VALUE`, and the list of them that --help shows."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import typer

from models.kernels import KERNELS


def parse_settings(pairs: Sequence[str], named: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of `--set` options and those of options of their own, such as `--steps`; None there means not given.

    A value is a JSON number, true, false or null, else a string. Raises typer.BadParameter where a pair is no NAME=VALUE or a name is
    given twice.
    """
    settings = {name: value for name, value in named.items() if value is not None}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE, such as leapfrog_steps=10", param_hint="--set")
        if name in settings:
            raise typer.BadParameter(f"{name} is given twice", param_hint="--set")
        settings[name] = _value(text)
    return settings


def list_settings() -> str:
    """Each kernel with its settings and their defaults, one paragraph a kernel."""
    return "\n\n".join(["Kernels and their settings:", *(f"{name}: {_defaults(name)}" for name in KERNELS)])


def _defaults(kernel: str) -> str:
    fields = KERNELS[kernel].model_fields.items()
    return ", ".join(f"{name}={field.default}" for name, field in fields if name != "kernel")


def _value(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    is_finite = not isinstance(value, float) or math.isfinite(value)  # NaN and 1e999 cannot be sent as JSON
    return value if is_finite and not isinstance(value, str | list | dict) else text
