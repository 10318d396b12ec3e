"""The wheel in a fresh environment: the client and its command, typed, without torch and without the names of our sources."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
USE = """
import asyncio, sys
from ebbtide import AsyncClient, Client, Refused

with Client() as ebbtide:
    assert ebbtide.generate("toy", num_images=2, seed=7).png.startswith(b"\\x89PNG")
    try:
        ebbtide.generate("nobody")
    except Refused as refused:
        assert refused.problem.errors[0].field == "model"

async def main():
    async with AsyncClient() as ebbtide:
        pictures = await ebbtide.generate("toy", num_images=3, layout="images")
        print(len(pictures), "pictures")

asyncio.run(main())
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"torch", "redis", "fastapi", "service", "models", "workers"}, loaded
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment in which only the wheel was installed."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", folder, ROOT], check=True, timeout=120, capture_output=True)
    venv.create(folder / "env", with_pip=False)
    (wheel,) = folder.glob("ebbtide-*.whl")
    subprocess.run([*pip, "--python", folder / "env/bin/python", "install", wheel], check=True, timeout=120, capture_output=True)
    return folder / "env" / "bin"


def test_a_client_that_was_installed_alone_works(fresh: Path, address: str, painter, tmp_path: Path) -> None:
    env = {"PATH": os.environ["PATH"], "EBBTIDE_URL": address}

    def run(*command: str | Path) -> str:
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "3 pictures" in run(fresh / "python", "-c", USE.replace("Client()", f"Client({address!r})"))
    assert "ddls*" in run(fresh / "ebbtide", "models")
    run(fresh / "ebbtide", "generate", "toy", "--images", "2", "-o", "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    assert " up " not in run(fresh / "ebbtide", "--help")


def test_nothing_else_of_ours_is_installed(fresh: Path) -> None:
    (packages,) = (fresh.parent / "lib").glob("python*/site-packages")
    here = {path.name for path in packages.iterdir()}
    assert not here & {"service", "models", "workers", "torch", "redis", "fastapi", "numpy"}
    assert (packages / "ebbtide" / "py.typed").is_file()
    assert not [file for file in (packages / "ebbtide").rglob("*.py") if "\nfrom service" in file.read_text()]
