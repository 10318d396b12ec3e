"""Pydantic's errors as the API's faults: field, value, reason and choices."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

from service.protocol.schemas import Fault

LONGEST_VALUE = 200


def faults_of(errors: Sequence[Any], *, model: type[BaseModel] | None = None, within: str = "") -> tuple[Fault, ...]:
    """One fault for each of pydantic's errors about `model`; `within` is the field of the request that holds it."""
    return tuple(_fault(error, model, within) for error in errors)


def summary(faults: Sequence[Fault]) -> str:
    """All faults in one line."""
    return "; ".join(_sentence(fault) for fault in faults)


def shown(value: object) -> Any:
    """A value as the caller sent it, cut after LONGEST_VALUE characters."""
    if value is None or isinstance(value, bool | float):
        return repr(value) if value != value or value in (float("inf"), float("-inf")) else value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    text = value if isinstance(value, str) else _text(value)
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"


def _text(value: object) -> str:
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # no JSON type, an integer of thousands of digits, deep nesting
        return f"<{type(value).__name__}>"


def _fault(error: Mapping[str, Any], model: type[BaseModel] | None, within: str) -> Fault:
    path = [str(part) for part in error["loc"]]
    absent = error["type"] == "missing"
    return Fault(
        field=".".join([within, *path] if within else path),
        value=None if absent else shown(error.get("input")),
        reason="unknown field" if error["type"] == "extra_forbidden" else _lower(error["msg"]),
        choices=_choices(error, path, model),
    )


def _choices(error: Mapping[str, Any], path: list[str], model: type[BaseModel] | None) -> tuple[str, ...]:
    if model is None or len(path) != 1:
        return ()
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    if error["type"] == "extra_forbidden":
        return tuple(fields)
    field = fields.get(path[0])
    return literals(field.annotation) if field else ()


def literals(annotation: object) -> tuple[str, ...]:
    """The strings of a Literal, also inside unions; empty for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(choice for inner in get_args(annotation) for choice in literals(inner))


def _sentence(fault: Fault) -> str:
    value = "" if fault.value is None else f" (got {json.dumps(fault.value, ensure_ascii=False)})"
    choices = f"; choices: {', '.join(fault.choices)}" if fault.choices else ""
    return f"{fault.field or 'body'}: {fault.reason}{value}{choices}"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
