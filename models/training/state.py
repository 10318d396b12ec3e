"""A training run on disk, in safetensors: networks, averages, optimisers and random stream, so that a resumed run goes on bit for bit.

The file names no device: a run may go on on another one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import save_file

from models.cards import Frozen
from models.device import read
from models.families.base import TrainState

if TYPE_CHECKING:
    from torch import Tensor

LAST = "state.safetensors"  # where a run goes on
SOUND = "sound.safetensors"  # where it goes back to when it diverges: its last evaluation


class Account(Frozen):
    """What a run has behind it, beside its tensors."""

    seconds: float = 0.0
    stepping_s: float = 0.0  # of them, without evaluations and previews
    steps: int = 0  # taken in that time, those that a rollback undid too
    rollbacks: tuple[str, ...] = ()  # the reason for each


def save(state: TrainState, folder: Path, fingerprint: str, account: Account, *, file: str = LAST) -> None:
    """Writes the state beside the old one and renames: a kill leaves one of the two, whole."""
    tensors = {f"network/{name}": tensor for name, tensor in state.networks.state_dict().items()}
    for owner, optimizer in state.optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{owner}/{index}/{key}": value for key, value in values.items() if value is not None}
    for owner, average in state.averages.items():
        tensors |= {f"average/{owner}/{key}": tensor for key, tensor in average.items()}
    tensors["random"] = state.random.get_state()
    about = {"step": str(state.step), "fingerprint": fingerprint, "account": account.model_dump_json()}
    write(folder / file, tensors, about)


def write(path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
    """Writes a safetensors file with metadata in one rename; makes its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".draft")
    save_file({name: read(tensor).contiguous() for name, tensor in tensors.items()}, draft, metadata=about)
    os.replace(draft, path)


def restore(state: TrainState, folder: Path, fingerprint: str, *, file: str = LAST) -> Account:
    """Fills a fresh state with what the folder's file holds, if there is one. Raises ValueError for another run's folder."""
    if not (folder / file).exists():
        return Account()
    with safe_open(folder / file, framework="pt") as opened:
        about = opened.metadata()
        if about["fingerprint"] != fingerprint:
            raise ValueError(f"{folder} holds another run, with the settings {about['fingerprint']}")
        tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (it is no dict)
    state.networks.load_state_dict(_under("network/", tensors))
    for owner, optimizer in state.optimizers.items():
        held = optimizer.state_dict()
        held["state"] = _optimizer_state(_under(f"optimizer/{owner}/", tensors))
        optimizer.load_state_dict(held)
    for owner in state.averages:
        state.averages[owner] = {key: tensor.to(state.device) for key, tensor in _under(f"average/{owner}/", tensors).items()}
    state.random.set_state(tensors["random"])
    state.step = int(about["step"])
    return Account.model_validate_json(about["account"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin so, by the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _optimizer_state(tensors: dict[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """`index/key` to moment: index of a parameter to its moments."""
    found: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        found.setdefault(int(index), {})[key] = tensor
    return found
