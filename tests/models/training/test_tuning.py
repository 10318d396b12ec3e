"""Tuning prefers the cheapest settings unless others are better by more than noise, and runs every setting from the same latents."""

from statistics import mean

import torch
from torch import nn

from models.kernels.local_global import LocalGlobal
from models.kernels.mala import Mala
from models.targets.latent_ebm import LatentEbm
from models.training import tuning
from models.training.measurement import affordable, evaluations, operations_of
from models.training.tuning import Setting, chosen, tuned

START = Setting(40, 0.3)


def test_settings_that_noise_cannot_tell_apart_go_to_the_cheapest():
    fids = {
        Setting(20, 0.3): [10.2, 9.9, 10.1, 10.0],
        Setting(40, 0.3): [10.1, 10.0, 10.0, 10.0],
        Setting(80, 0.3): [9.9, 10.0, 10.1, 9.8],  # the best mean
    }
    assert chosen(fids, START) == Setting(20, 0.3)


def test_settings_that_are_better_by_more_than_noise_are_worth_their_price():
    base = [10.0, 12.0, 11.0, 9.0]  # seeds differ far more than settings do, but alike: differences are paired
    fids = {
        Setting(20, 0.3): [value + 0.5 for value in base],
        Setting(40, 0.3): [value + 0.01 * sign for value, sign in zip(base, (1, -1, 1, -1), strict=True)],
        Setting(80, 0.3): base,
    }
    assert mean(fids[Setting(80, 0.3)]) < mean(fids[Setting(20, 0.3)])
    assert chosen(fids, START) == Setting(40, 0.3)


def test_among_equals_in_steps_the_step_size_stays_and_else_the_best_wins():
    fids = {Setting(40, 0.15): [10.0, 10.2, 9.9, 10.1], START: [10.1, 10.1, 10.0, 10.1], Setting(40, 0.6): [10.2, 10.0, 10.0, 10.1]}
    assert chosen(fids, START) == START
    fids[START] = [11.0, 11.2, 10.9, 11.1]
    assert chosen(fids, START) == Setting(40, 0.15)


def test_every_setting_is_tried_on_the_same_seeds(adversarial, validation, monkeypatch):
    tried = []
    monkeypatch.setattr(tuning, "distance", lambda images, _: tried.append(images) or 1.0)
    monkeypatch.setattr(tuning, "MOST", 70)
    found = tuned(adversarial, "ddls", Mala(steps=4, step_size=0.3), validation)
    assert (found.steps, found.step_size) == (2, 0.3)
    assert len(tried) == 3 * 3 * len(tuning.SEEDS)
    assert {len(images) for images in tried} == {70}


def test_chains_of_one_seed_pass_where_shorter_ones_end(adversarial):
    few = adversarial.passed("ddls", Mala(steps=6, step_size=0.3), 5, (2, 6))
    short, long = (adversarial.passed("ddls", Mala(steps=steps, step_size=0.3), 5, (steps,))[steps] for steps in (2, 6))
    assert torch.equal(torch.cat(few[2]), torch.cat(short))
    assert torch.equal(torch.cat(few[6]), torch.cat(long))
    assert not torch.equal(torch.cat(short), torch.cat(long))


def test_the_price_of_an_energy_counts_its_networks():
    class Product(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return (z @ torch.ones(6, 5)).sum(1)

    assert operations_of(LatentEbm(Product()), torch.zeros(1, 6)) == 2 * 6 * 5
    assert evaluations(LocalGlobal(steps=5, mala_steps=3)) == 5 * (10 + 3)
    assert evaluations(Mala(steps=5)) == 5
    assert affordable(1000, 60, 1, 100) == 16
    assert affordable(1000, 60, 20, 100) == 20
    assert affordable(1e9, 60, 20, 100) == 100
