"""Noise is Philox4x32-10, normal, and the same number for the same (seed, chain, step, position) in any batch."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.noise import Purpose, Streams, draw, philox, start, words

# Known answers of the Random123 library (kat_vectors, philox4x32 with 10 rounds): counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def streams(chains: int, seed: int = 7) -> Streams:
    return Streams(torch.full((chains,), seed), torch.arange(chains))


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_vectors(counter, key, result):
    drawn = philox(tuple(torch.tensor([word]) for word in counter), tuple(torch.tensor([word]) for word in key))
    assert tuple(int(word) for word in drawn) == result


def test_normals_have_the_moments_of_a_normal():
    drawn = draw(streams(1000), torch.arange(10).unsqueeze(1).expand(10, 1000), 100).normal.double().flatten()
    count = len(drawn)
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96)}  # order: expectation and variance of n^order
    for order, (expected, variance) in moments.items():
        assert abs(drawn.pow(order).mean() - expected) < 4 * math.sqrt(variance / count), order


def test_neighbouring_chains_steps_and_positions_are_uncorrelated():
    drawn = draw(streams(400), torch.arange(20).unsqueeze(1).expand(20, 400), 64).normal.double()
    for dimension in range(3):
        left, right = drawn.narrow(dimension, 0, drawn.shape[dimension] - 1), drawn.narrow(dimension, 1, drawn.shape[dimension] - 1)
        assert abs((left * right).mean()) < 4 / math.sqrt(left.numel()), dimension


def test_uniforms_are_uniform_and_never_zero_or_one():
    drawn = draw(streams(1000), torch.arange(100).unsqueeze(1).expand(100, 1000), 4).log_uniform.exp().double().flatten()
    assert 0 < drawn.min() < 1e-4
    assert 1 - 1e-4 < drawn.max() < 1
    assert abs(drawn.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(drawn))


def test_seeds_of_64_bits_reach_both_key_words():
    step = torch.zeros(1, 1, dtype=torch.int64)
    seen = {
        tuple(words(Streams(torch.tensor([seed]), torch.tensor([0])), step, Purpose.TICK, 4).flatten().tolist())
        for seed in (1, 2**32, 2**32 + 1)
    }
    assert len(seen) == 3


def test_the_start_shares_no_numbers_with_the_first_step():
    assert not torch.equal(start(streams(3), (8,)), draw(streams(3), torch.zeros(1, 3, dtype=torch.int64), 8).normal[0])


@given(
    chains=st.integers(1, 70),
    ticks=st.integers(1, 9),
    size=st.sampled_from([1, 2, 3, 17, 32, 64, 100]),
    data=st.data(),
)
def test_a_chain_draws_the_same_bits_in_any_batch(chains, ticks, size, data):
    row, tick = data.draw(st.integers(0, chains - 1)), data.draw(st.integers(0, ticks - 1))
    steps = torch.arange(ticks).unsqueeze(1) + 3 * torch.arange(chains)
    everyone, alone = streams(chains), Streams(torch.tensor([7]), torch.tensor([row]))
    together, apart = draw(everyone, steps, size), draw(alone, steps[tick, row].reshape(1, 1), size)
    assert torch.equal(together.normal[tick, row], apart.normal[0, 0])
    assert torch.equal(together.log_uniform[tick, row], apart.log_uniform[0, 0])
