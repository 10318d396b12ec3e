"""JSON as its schema has it: 4.0 and 4e0 are integers, nothing else changes."""

import json

import httpx
import pytest

from service.protocol.bodies import with_integers


@pytest.mark.parametrize(
    ("given", "same"),
    [
        ('{"a": 4.0, "b": 1e2, "c": -3.000, "d": [0.0, 1E+1]}', {"a": 4, "b": 100, "c": -3, "d": [0, 10]}),
        ('{"a": 4.5, "b": 0.1, "c": 1e-3, "d": 1e300}', {"a": 4.5, "b": 0.1, "c": 0.001, "d": 1e300}),
        ('{"seed": 9007199254740993.0}', {"seed": 9007199254740993}),
        ('{"text": "4.0 and 1e5"}', {"text": "4.0 and 1e5"}),
    ],
)
def test_integral_numbers_become_integers(given: str, same: dict) -> None:
    found = json.loads(with_integers(given.encode()))
    assert found == same
    assert json.dumps(found) == json.dumps(same)  # the types too


@pytest.mark.parametrize("given", [b'{"a": 1.0', b"[" * 100_000 + b"1.0", b'{"a": 4}', b'{"a": NaN, "b": 1.50}', b"\xff1.0"])
def test_what_is_no_json_or_has_no_such_number_stays_as_it_is(given: bytes) -> None:
    assert with_integers(given) == given


@pytest.mark.parametrize("mcmc", [{}, None, {"steps": 5}, {"steps": 5.0, "kernel": "mala"}, {"step_size": 1}])
def test_kernel_settings_may_be_left_out_in_part_or_whole(api: httpx.Client, painter, mcmc) -> None:
    body = {"model": "toy", "num_images": 2.0, "seed": 1e3, "mcmc": mcmc}
    answer = api.post("/generate", json=body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text
    job = answer.json()["job"]
    assert (job["num_images"], job["seed"], job["mcmc"]["kernel"]) == (2, 1000, "mala")
    assert job["mcmc"]["steps"] == (5 if mcmc and "steps" in mcmc else 40)


@pytest.mark.parametrize(("field", "value"), [("num_images", 2.5), ("seed", "4.0"), ("num_images", 1e40)])
def test_other_numbers_are_refused(api: httpx.Client, field: str, value: object) -> None:
    answer = api.post("/generate", json={"model": "toy", field: value})
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
