"""The README's curl, shell and Python blocks work, run against real processes with the checkpoints that ship."""

import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.system.house import ROOT, House, opened

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
ELSEWHERE = ("make ", "docker ", ".venv/bin/ebbtide train", ".venv/bin/python -m workers.training")  # hours, or other tests


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.S | re.M)


SHELL = [block for block in blocks("bash") if not block.startswith(ELSEWHERE)]


@pytest.fixture
def shipped(valkey_url: str, redis: Any, tmp_path: Path) -> Iterator[House]:
    with opened(valkey_url, ROOT / "models" / "zoo", tmp_path / "data") as house:
        house.start_generation()
        yield house


def pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes of the PNG files in a folder."""
    return {path.name: Image.open(BytesIO(path.read_bytes())).size for path in folder.glob("*.png")}


def test_the_shell_blocks(shipped: House, tmp_path: Path) -> None:
    assert len(SHELL) >= 3
    here = tmp_path / "here"
    here.mkdir()
    told = ""
    for block in SHELL:
        script = block.replace("localhost:8000", f"127.0.0.1:{shipped.port}").replace(".venv/bin/", f"{Path(sys.executable).parent}/")
        script = script.replace("curl -s", "curl --fail -s")
        env = shipped.env | {"EBBTIDE_URL": f"http://127.0.0.1:{shipped.port}", "NO_PROXY": "*"}
        run = subprocess.run(["bash", "-euc", script], cwd=here, env=env, capture_output=True, text=True, timeout=240, check=False)
        assert run.returncode == 0, f"{block}\n{run.stderr}"
        told += run.stdout
    assert pictures(here) == {"out.png": (118, 118), "one.png": (28, 28), "sixteen.png": (118, 118), "hmc.png": (118, 118)}
    assert '"energy_trace"' in told
    assert "HTTP/1.1 202" in told
    assert "mnist-sngan" in told


def test_the_python_block(shipped: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python")
    exec(compile(block.replace("Client()", f'Client("http://127.0.0.1:{shipped.port}")'), "README.md", "exec"), {})
    assert pictures(tmp_path) == {"digits.png": (118, 118)}


def test_the_folder_of_many_images(shipped: House, tmp_path: Path) -> None:
    (block,) = [block for block in blocks("bash", "docs/operations.md") if "-o many/" in block]
    script = block.replace(".venv/bin/", f"{Path(sys.executable).parent}/").replace("100000", "20")
    env = shipped.env | {"EBBTIDE_URL": f"http://127.0.0.1:{shipped.port}", "NO_PROXY": "*"}
    for _ in range(2):
        subprocess.run(["bash", "-euc", script], cwd=tmp_path, env=env, check=True, timeout=240)
    assert pictures(tmp_path / "many") == {f"{number:08}.png": (28, 28) for number in range(20)}


def test_the_asyncio_block(shipped: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (block,) = blocks("python", "docs/operations.md")
    exec(compile(block.replace("AsyncClient()", f'AsyncClient("http://127.0.0.1:{shipped.port}")'), "operations.md", "exec"), {})
    assert pictures(tmp_path) == {f"{seed}.png": (118, 118) for seed in range(8)}
