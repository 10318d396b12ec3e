"""Other servers with the same no-op: a 28x28 PNG a request, one worker, an environment of their own, no durable queue."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent


class Rival(NamedTuple):
    """The command, path and body of another server."""

    name: str
    package: str
    command: tuple[str, ...]
    path: str
    body: str
    env: dict[str, str] = {}


BENTO = ("bentoml", "serve", "bento_service:Painter", "--host", "127.0.0.1", "--port", "{port}")
RIVALS = (
    Rival("BentoML", "bentoml", BENTO, "/paint", '{"seed": 1}'),
    Rival("BentoML, uncounted", "bentoml", BENTO, "/paint", '{"seed": 1}', {"UNCOUNTED": "1"}),
    Rival("LitServe", "litserve", ("python", "lit_service.py", "{port}"), "/predict", '{"seed": 1}'),
)


def install(venv: Path) -> None:
    """Makes an environment with both servers, apart from ours."""
    if not (venv / "bin" / "python").exists():
        subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    packages = sorted({rival.package for rival in RIVALS})
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check", *packages, "pillow", "numpy"]
    subprocess.run(pip, check=True)


def start(rival: Rival, venv: Path, port: int, log: Path) -> subprocess.Popen[bytes]:
    """The server in a process group of its own."""
    program, *rest = (word.format(port=port) for word in rival.command)
    env = os.environ | {
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(log.parent / "bentoml"),
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "*",
        **rival.env,
    }
    with log.open("ab") as out:
        return subprocess.Popen([str(venv / "bin" / program), *rest], cwd=HERE, env=env, stdout=out, stderr=out, start_new_session=True)
