"""docs/extending.md is true: its files, written into a copy of the sources, are found, served, trained and measured as the page says."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.system.house import ROOT, House, opened, until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
PAGE = (ROOT / "docs" / "extending.md").read_text()
COPIED = ("models", "workers", "service", "tests", "pyproject.toml")


def files() -> dict[str, str]:
    """Paths and contents of the page's Python blocks, whose first line is the path."""
    blocks = re.findall(r"^```python\n# (\S+)\n(.*?)^```", PAGE, re.S | re.M)
    return dict(blocks)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with the page's files."""
    tree = tmp_path_factory.mktemp("extended")
    for name in COPIED:
        here = ROOT / name
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(here, tree / name, ignore=ignored) if here.is_dir() else shutil.copy(here, tree / name)
    for path, content in files().items():
        place = tree / path
        if place.exists():  # one line of a file, in place of the one that begins alike
            start = content.split(" = ")[0] + " = "
            lines = place.read_text().splitlines()
            assert sum(line.startswith(start) for line in lines) == 1
            content = "\n".join(content.strip() if line.startswith(start) else line for line in lines) + "\n"
        place.write_text(content)
    return tree


@pytest.fixture
def extended(tree: Path, valkey_url: str, redis: Any, tmp_path: Path) -> Iterator[House]:
    """An API, a generation worker and a training worker of the copy."""
    with opened(valkey_url, tmp_path / "checkpoints", tmp_path, root=tree) as house:
        house.start_generation()
        house.start("workers.training")
        yield house


def run(house: House, tree: Path, here: Path, block: str) -> str:
    """What the page's commands print."""
    script = block.replace("localhost:8000", f"127.0.0.1:{house.port}").replace(".venv/bin/", f"{Path(sys.executable).parent}/")
    env = house.env | {"NO_PROXY": "*", "PYTHONPATH": str(tree), "OUT": str(here)}
    script = re.sub(r"-o (\S+)", r'-o "$OUT/\1"', script.replace("curl -s", "curl --fail -s"))
    done = subprocess.run(["bash", "-euc", script], cwd=tree, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(png)))


def test_the_files_pass_the_checks_of_the_project(tree: Path) -> None:
    paths = [path for path in files() if path != "service/app.py"]
    for command in (("ruff", "check", "--quiet"), ("ruff", "format", "--check", "--quiet")):
        subprocess.run([sys.executable, "-m", *command, *paths], cwd=tree, check=True, timeout=100)


def test_every_command_of_the_page_works_in_order(extended: House, tree: Path, tmp_path: Path) -> None:
    kernel, family, endpoint = re.findall(r"^```bash\n(.*?)^```", PAGE, re.S | re.M)
    assert re.search(r"\b[1-9]\d* passed", run(extended, tree, tmp_path, kernel))
    assert pixels((tmp_path / "walk.png").read_bytes()).shape == (8, 8)

    card = json.loads(run(extended, tree, tmp_path, family).splitlines()[-1])
    assert (card["family"], card["options"], set(card["samplers"])) == ("auto-encoder", {"strength": 8.0}, {"prior", "bright"})
    measured = {(metric["name"], metric["sampler"]) for metric in card["metrics"]}
    assert measured >= {("brightness-error", "prior"), ("brightness-error", "bright"), ("fid", "bright")}
    assert "--set strength=8.0" in card["training"]["command"]

    prior = extended.client.post("/generate", json={"model": "bars", "sampler": "prior", "num_images": 16, "seed": 1})
    assert pixels((tmp_path / "bars.png").read_bytes()).mean() > pixels(prior.content).mean()

    job = json.loads(run(extended, tree, tmp_path, endpoint))
    assert job["job"] == {"kind": "count", "caller": "", "model": "mnist-sngan"}
    assert until(lambda: (seen := extended.job(job["id"]))["status"] == "finished" and seen)["result"]["versions"] == 1


def test_the_new_names_are_documented(extended: House) -> None:
    document = extended.client.get("/openapi.json").text
    for name in ("random-walk", "auto-encoder", "light-bars", "bright", "strength", "/counts/{name}"):
        assert name in document, name
    asked = {"name": "x", "family": "auto-encoder", "dataset": "light-bars", "options": {"strength": -1}}
    refused = extended.client.post("/train", json=asked)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "options.strength")
    command = [sys.executable, "-m", "workers.training", "--help"]
    assert "strength" in subprocess.run(command, cwd=extended.root, env=os.environ, capture_output=True, text=True, check=True).stdout
