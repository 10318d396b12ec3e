"""Counter-based random numbers: a pure function of (seed, chain, step, position), so a chain draws the same in any batch.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the key is the seed, the counter is
(position block, step, chain, purpose). Normals by Box-Muller from 23-bit uniforms, so |n| < 5.77. Vectorised in int64 tensors: any device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 0xFFFFFFFF


class Purpose(IntEnum):
    """Streams of one chain that never meet."""

    START = 0
    TICK = 1


class Draws(NamedTuple):
    """The random numbers of chains over several ticks."""

    normal: Tensor  # (ticks, chains, size)
    log_uniform: Tensor  # (ticks, chains)


@dataclass(frozen=True)
class Streams:
    """Which chains draw: one row each."""

    seed: Tensor  # (chains,) int64
    chain: Tensor  # (chains,) int64, the image's index within its job

    def take(self, rows: Tensor) -> Streams:
        """The streams of some rows, (rows,) int64."""
        return Streams(self.seed[rows], self.chain[rows])


def philox(counter: tuple[Tensor, ...], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four counter words and two key words in, four random words out; all int64 in [0, 2^32), shapes broadcast."""
    a, b, c, d = counter
    left, right = key
    for _ in range(ROUNDS):
        high_a, low_a = _multiply(a, _MULTIPLIERS[0])
        high_c, low_c = _multiply(c, _MULTIPLIERS[1])
        a, b, c, d = high_c ^ b ^ left, low_c, high_a ^ d ^ right, low_a
        left, right = (left + _WEYL[0]) & _WORD, (right + _WEYL[1]) & _WORD
    return a, b, c, d


def _multiply(word: Tensor, by: int) -> tuple[Tensor, Tensor]:
    """High and low word of a 32×32 bit product, which wraps in int64 but keeps its bits."""
    product = word * by
    return (product >> 32) & _WORD, product & _WORD


def words(streams: Streams, steps: Tensor, purpose: Purpose, count: int) -> Tensor:
    """Random words in [0, 2^32) for every step and chain: steps (ticks, chains) -> (ticks, chains, count), count a multiple of 4."""
    position = torch.arange(count // 4, device=steps.device)
    counter = (position, steps.unsqueeze(-1), streams.chain.unsqueeze(-1), position.new_full((), int(purpose)))
    key = (streams.seed.unsqueeze(-1) & _WORD, (streams.seed.unsqueeze(-1) >> 32) & _WORD)
    drawn = philox(tuple(word.expand(*steps.shape, count // 4) for word in counter), key)
    return torch.stack(drawn, dim=-1).flatten(-2)


def uniforms(random_words: Tensor) -> Tensor:
    """Words to float32 on (0, 1): the middle of one of 2^23 equal intervals, so neither 0 nor 1."""
    return ((random_words >> 9).float() + 0.5) * 2.0**-23


def box_muller(uniform: Tensor) -> Tensor:
    """Pairs of uniforms to pairs of standard normals, in place of one another along the last dimension."""
    pairs = uniform.reshape(*uniform.shape[:-1], -1, 2)
    radius = pairs[..., 0].contiguous().log_().mul_(-2).sqrt_()
    angle = pairs[..., 1].contiguous().mul_(2 * torch.pi)
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(-2)


def draw(streams: Streams, steps: Tensor, size: int, purpose: Purpose = Purpose.TICK) -> Draws:
    """What every chain draws at every step, `size` normals and a uniform: steps (ticks, chains) int64."""
    normal_words = -(-size // 4) * 4
    uniform = uniforms(words(streams, steps, purpose, normal_words + 4))
    normal = box_muller(uniform[..., :normal_words])[..., :size]
    return Draws(normal.contiguous(), uniform[..., normal_words].contiguous().log_())


def start(streams: Streams, shape: tuple[int, ...]) -> Tensor:
    """What the chains start from: standard normals, (chains, *shape)."""
    step = torch.zeros(1, len(streams.seed), dtype=torch.int64, device=streams.seed.device)
    return draw(streams, step, math.prod(shape), Purpose.START).normal[0].reshape(-1, *shape)
