"""A checkpoint made ready to sample: eval mode, parameters frozen, BatchNorm folded into the layer before it, channels-last."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.cards import ModelCard
from models.checkpoints import DamagedWeights, Store
from models.families import family
from models.families.base import Size, Space, spaces
from models.inference.frozen_convolution import FrozenConvolution
from models.inference.frozen_run import available, frozen
from models.inference.layout import channels_last
from models.inference.steady_linear import steady
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
    networks = family(card.family, card.options).build(Size.model_validate(card.networks))
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
    """A copy that computes the same outputs (to 1e-5) at less cost, and cannot be trained."""
    ready: nn.ModuleDict = copy.deepcopy(networks).eval()
    for module in list(ready.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Sequential):
                setattr(module, name, folded(child, device))
    for parameter in ready.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return ready.eval().requires_grad_(False).to(device)


def folded(layers: nn.Sequential, device: torch.device) -> nn.Sequential:
    """The same layers without Dropout, each BatchNorm folded into the layer before it, channels-last, in frozen runs or else steady."""
    kept: list[nn.Module] = []
    for layer in layers:
        if isinstance(layer, nn.BatchNorm2d) and kept and isinstance(kept[-1], nn.Conv2d | nn.ConvTranspose2d):
            kept[-1] = fuse_conv_bn_eval(kept[-1], layer, transpose=isinstance(kept[-1], nn.ConvTranspose2d))
        elif isinstance(layer, nn.BatchNorm2d) and len(kept) > 1 and isinstance(kept[-1], nn.Unflatten) and isinstance(kept[-2], nn.Linear):
            kept[-2] = _fold_into_linear(kept[-2], layer)
        elif not isinstance(layer, nn.Dropout | nn.Dropout2d):
            kept.append(layer)
    kept = channels_last(kept)
    in_runs = available(device) and any(map(FrozenConvolution.covers, kept))  # small linear layers alone are slower in runs
    return nn.Sequential(*(frozen(kept) if in_runs else map(steady, kept)))


def _fold_into_linear(linear: nn.Linear, norm: nn.BatchNorm2d) -> nn.Linear:
    """A linear layer whose outputs are channels by positions, scaled and shifted channel by channel."""
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a BatchNorm without running statistics cannot be folded")
    positions = linear.out_features // norm.num_features
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).repeat_interleave(positions)
    shift = (norm.bias - norm.running_mean * norm.weight / (norm.running_var + norm.eps).sqrt()).repeat_interleave(positions)
    result = copy.deepcopy(linear)
    result.weight.data = linear.weight * scale.unsqueeze(1)
    result.bias.data = linear.bias * scale + shift
    return result
