"""A checkpoint made ready to sample: eval mode, parameters frozen, and every part of its networks as cheap as it can be."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from models.cards import ModelCard
from models.checkpoints import DamagedWeights, Store
from models.families import family
from models.families.base import Size, Space, spaces
from models.inference.folding import alone, folded
from models.inference.frozen_convolution import FrozenConvolution
from models.targets.base import Target


@dataclass(frozen=True)
class Prepared:
    """What sampling needs of a checkpoint."""

    card: ModelCard
    networks: nn.ModuleDict
    targets: dict[str, Target]
    spaces: dict[str, Space]  # of `prior` and of every target
    device: torch.device

    @property
    def bytes(self) -> int:
        """What its weights take in memory, with the copies made as it runs."""
        kept: int = sum(tensor.nbytes for tensor in self.networks.state_dict().values())
        return kept + sum(layer.copies for layer in self.networks.modules() if isinstance(layer, FrozenConvolution))


def load(store: Store, card: ModelCard, device: torch.device) -> Prepared:
    """Reads, verifies and prepares a checkpoint. Raises DamagedWeights where file and card disagree."""
    networks = family(card.family, card.options).assemble(Size.model_validate(card.networks))
    try:
        networks.load_state_dict(store.weights(card))
    except RuntimeError as error:
        raise DamagedWeights(f"{card.name}@{card.version}: {error}") from error
    return assembled(card, prepare(networks, device), device)


def assembled(card: ModelCard, networks: nn.ModuleDict, device: torch.device) -> Prepared:
    """What sampling needs, of networks that were prepared."""
    kind, size = family(card.family, card.options), Size.model_validate(card.networks)
    return Prepared(card, networks, kind.targets(networks), spaces(kind, networks, size), device)


def prepare(networks: nn.ModuleDict, device: torch.device) -> nn.ModuleDict:
    """A copy that computes the same outputs (to 1e-5) at less cost, and cannot be trained.

    Recognised at any depth: a plain nn.Sequential, whose layers are folded together and so no longer reachable one by one, and a lone
    convolution or linear layer, whose weight and bias stay reachable. All else only goes into eval mode and takes no gradient.
    """
    ready: nn.ModuleDict = copy.deepcopy(networks).eval()
    _prepare_parts(ready, device, {})
    return ready.eval().requires_grad_(False).to(device)


def _prepare_parts(module: nn.Module, device: torch.device, seen: dict[nn.Module, nn.Module]) -> None:
    """Puts prepared parts into a module; one that stands in several places is prepared once."""
    for name, part in list(module.named_modules(remove_duplicate=False)):
        if name and "." not in name:
            setattr(module, name, _prepared(part, device, seen))


def _prepared(module: nn.Module, device: torch.device, seen: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in seen:
        if type(module) is nn.Sequential:
            seen[module] = folded(list(_layers(module, device, seen)), device)
        else:
            _prepare_parts(module, device, seen)
            seen[module] = alone(module, device)
    return seen[module]


def _layers(sequence: nn.Sequential, device: torch.device, seen: dict[nn.Module, nn.Module]) -> Iterator[nn.Module]:
    """The layers of a sequence and of those within it; what has parts of its own, prepared."""
    for layer in sequence:
        if type(layer) is nn.Sequential:
            yield from _layers(layer, device, seen)
        else:
            yield _prepared(layer, device, seen) if any(True for _ in layer.children()) else layer
