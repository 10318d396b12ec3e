"""A request may name the class of its images, where the model has classes; every image of such a model has one."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client
from tests.service.command.test_cli import Command
from tests.service.conftest import CARD
from tests.service.protocol.test_refusals import fault
from workers.jobs import ClassData

ASYNC = {"Prefer": "respond-async"}


@pytest.fixture(autouse=True)
def classed(settings) -> Iterator[None]:
    """Beside `toy`, which has no classes, `classed` has ten and `many` a thousand."""
    for name, classes in (("classed", 10), ("many", 1000)):
        folder = settings.checkpoints / name / "1"
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(json.dumps(CARD | {"name": name, "classes": classes}))
    yield
    for name in ("classed", "many"):
        shutil.rmtree(settings.checkpoints / name)


def accepted(api: httpx.Client, **body: object) -> dict:
    answer = api.post("/generate", json={"model": "classed"} | body, headers=ASYNC)
    assert answer.status_code == 202, answer.text
    return answer.json()["job"]


@pytest.mark.parametrize(("asked", "labels"), [(7, [7]), (0, [0]), ([3, 1, 3], [3, 1, 3])])
@pytest.mark.parametrize("sampler", ["ddls", "prior"])
def test_a_class_or_several_in_turn_reach_the_job(api: httpx.Client, asked: object, labels: list[int], sampler: str) -> None:
    assert accepted(api, sampler=sampler, num_images=5, **{"class": asked})["data"] == {"kind": "class", "labels": labels}


def test_without_a_class_every_image_has_one_that_the_seed_draws(api: httpx.Client) -> None:
    job = accepted(api, num_images=200)
    assert job["data"]["labels"] == list(ClassData.drawn(job["seed"], 200, 10).labels)
    assert set(job["data"]["labels"]) == set(range(10))
    assert accepted(api, num_images=3, seed=job["seed"])["data"]["labels"] == job["data"]["labels"][:3]


def test_a_model_without_classes_has_none_in_its_jobs(api: httpx.Client) -> None:
    assert "data" not in accepted(api, model="toy")


@pytest.mark.parametrize(
    ("body", "value", "choices"),
    [
        ({"class": 10}, 10, [str(label) for label in range(10)]),
        ({"class": [1, 12]}, 12, [str(label) for label in range(10)]),
        ({"model": "many", "class": 1000}, 1000, ["0 to 999"]),
        ({"model": "toy", "class": 3}, 3, []),
        ({"class": -1}, -1, []),
        ({"class": "7"}, "7", []),
        ({"class": 1.5}, 1.5, []),
        ({"class": []}, "[]", []),
    ],
)
def test_a_class_that_the_model_has_not_is_refused_by_name_value_and_choices(
    api: httpx.Client, body: dict, value: object, choices: list
) -> None:
    answer = api.post("/generate", json={"model": "classed"} | body)
    found = fault(answer)
    assert (found["field"].partition(".")[0], found["value"], found["choices"]) == ("class", value, choices)


def test_an_unknown_field_is_told_that_there_is_a_class(api: httpx.Client) -> None:
    assert "class" in fault(api.post("/generate", json={"model": "classed", "klass": 3}))["choices"]


def test_the_python_client_and_the_command_name_classes(
    ebbtide: Client, address, api, painter, monkeypatch, capsys, tmp_path: Path
) -> None:
    ebbtide.generate("classed", class_=7)
    assert ebbtide.jobs()[0].job.data.labels == (7,)
    command = Command(address, monkeypatch, capsys)
    for words, labels in ((("--class", "4"), (4,)), (("--class", "4", "--class", "5"), (4, 5))):
        assert command("generate", "classed", *words, "-o", str(tmp_path / "out.png"))[0] == 0
        assert ebbtide.jobs()[0].job.data.labels == labels
    code, _, said = command("generate", "classed", "--class", "10", "-o", str(tmp_path / "out.png"))
    assert code == 1
    assert "class: not a class of classed (got 10)" in said


def test_the_description_and_the_cards_tell_of_classes(api: httpx.Client) -> None:
    assert "class" in api.get("/openapi.json").json()["components"]["schemas"]["GenerateRequest"]["properties"]
    assert {name: api.get(f"/models/{name}").json()["classes"] for name in ("toy", "classed")} == {"toy": 0, "classed": 10}


@pytest.mark.parametrize(("beta", "told"), [(0.5, {"beta": 0.5}), (1, {})])
def test_a_critic_temperature_is_a_setting_of_any_kernel(api: httpx.Client, beta: float, told: dict) -> None:
    mcmc = accepted(api, mcmc={"beta": beta})["mcmc"]
    assert {name: value for name, value in mcmc.items() if name == "beta"} == told
    assert fault(api.post("/generate", json={"model": "toy", "mcmc": {"beta": -0.1}}))["field"] == "mcmc.beta"
