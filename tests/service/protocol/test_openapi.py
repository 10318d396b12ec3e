"""Requests generated from the OpenAPI document: no answer is a 500 and every answer is documented."""

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.specs.openapi.checks import positive_data_acceptance  # a model's name is any string to the description

from service.app import create_app
from service.settings import Settings

SCHEMA = schemathesis.openapi.from_dict(create_app(Settings()).openapi())
NOT_ASKED = ("/events",)  # a stream ends when its job does
OPERATIONS = [operation for found in SCHEMA.get_all_operations() if not (operation := found.ok()).path.endswith(NOT_ASKED)]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.label)
def test_generated_requests_get_documented_answers(api: httpx.Client, address: str, painter, operation) -> None:
    @settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(st.one_of(operation.as_strategy(), operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)))
    def ask(case: schemathesis.Case) -> None:
        case.call_and_validate(base_url=address, headers={"Prefer": "respond-async"}, excluded_checks=[positive_data_acceptance])

    ask()
