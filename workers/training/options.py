"""A family's options as a command line has them."""

import json
from collections.abc import Mapping

from pydantic import JsonValue

from models.families import FAMILIES, family


def as_assignments(name: str, options: Mapping[str, JsonValue]) -> list[str]:
    """`name=value` of every option that is not the family's default."""
    defaults = family(name).model_dump(mode="json")
    return [f"{option}={json.dumps(value)}" for option, value in options.items() if value != defaults[option]]


def describe_options() -> str:
    """Help text: the options of every family, with defaults."""
    return "option of the family, repeatable. " + " ".join(f"{name}: {_options_of(name)}." for name in FAMILIES)


def _options_of(name: str) -> str:
    fields = FAMILIES[name].model_fields.items()
    return "; ".join(f"{option}={field.default} ({field.description})" for option, field in fields) or "none"
