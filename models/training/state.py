"""A training run on disk, in safetensors: networks, optimisers and random stream, so that a resumed run goes on bit for bit.

The file names no device: a run may go on on another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from models.device import read
from models.families.base import TrainState

if TYPE_CHECKING:
    from torch import Tensor


def save(state: TrainState, folder: Path, fingerprint: str, seconds: float) -> None:
    """Writes the state beside the old one and renames: a kill leaves one of the two, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"network/{name}": read(tensor).contiguous() for name, tensor in state.networks.state_dict().items()}
    for owner, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{owner}/{index}/{key}": read(value).contiguous() for key, value in values.items()}
    tensors["random"] = state.random.get_state()
    about = {"step": str(state.step), "seconds": str(seconds), "fingerprint": fingerprint}
    save_file(tensors, folder / "state.draft", metadata=about)
    os.replace(folder / "state.draft", folder / "state.safetensors")


def restore(state: TrainState, folder: Path, fingerprint: str) -> float:
    """Fills a fresh state with what the folder holds, if anything; gives back seconds spent. Raises ValueError for another run's folder."""
    path = folder / "state.safetensors"
    if not path.exists():
        return 0.0
    with safe_open(path, framework="pt") as file:
        about = file.metadata()
        if about["fingerprint"] != fingerprint:
            raise ValueError(f"{folder} holds another run, with the settings {about['fingerprint']}")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    networks = {name.removeprefix("network/"): tensor for name, tensor in tensors.items() if name.startswith("network/")}
    state.networks.load_state_dict(networks)
    for owner, optimizer in state.optimizers.items():
        held = optimizer.state_dict()
        held["state"] = _optimizer_state(tensors, f"optimizer/{owner}/")
        optimizer.load_state_dict(held)
    state.random.set_state(tensors["random"])
    state.step = int(about["step"])
    return float(about["seconds"])


def _optimizer_state(tensors: dict[str, Tensor], prefix: str) -> dict[int, dict[str, Tensor]]:
    """Index of a parameter to its moments."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name.removeprefix(prefix).split("/")
            found.setdefault(int(index), {})[key] = tensor
    return found
