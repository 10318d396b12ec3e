"""Settings on a command line: `--set NAME=VALUE`, as often as there are settings."""

import json
import math
from collections.abc import Iterable

from pydantic import JsonValue


def parse_assignments(pairs: Iterable[str]) -> dict[str, JsonValue]:
    """Values by name. A value is a JSON number, string, true, false or null; what is not JSON is a string as it stands.

    Raises ValueError where a pair is no NAME=VALUE or a name is given twice.
    """
    values: dict[str, JsonValue] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"{pair!r} is not NAME=VALUE, such as leapfrog_steps=10")
        if name in values:
            raise ValueError(f"{name} is given twice")
        values[name] = _value(text)
    return values


def _value(text: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(text)
    except ValueError:
        return text
    is_finite = not isinstance(value, float) or math.isfinite(value)  # NaN and 1e999 cannot be sent as JSON
    return value if is_finite and not isinstance(value, list | dict) else text
