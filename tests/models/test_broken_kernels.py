"""The closed forms catch every kernel that is broken on purpose: the same checks as for the right ones, and they fail."""

import pytest

from models.kernels import KERNELS, Kernel
from models.kernels.langevin import Langevin
from tests.models.broken_kernels import (
    AdaptingMala,
    ColdHmc,
    ColdJudgeHmc,
    ColdLangevin,
    ColdLocalGlobal,
    ColdMala,
    ForgetfulHmc,
    FullDriftLangevin,
    FullKickHmc,
    LocalOnly,
    NoisyLangevin,
    NoisyMala,
    PlainLocalGlobal,
    PriorlessLocalGlobal,
    RestlessLocalGlobal,
    ReversedLocalGlobal,
    ReversedMala,
    StandardDeviationLangevin,
    StrangersLocalGlobal,
    StubbornMala,
    SymmetricMala,
    UphillLangevin,
    careless,
)
from tests.models.closed_forms import check
from tests.models.test_closed_forms import EXACT, ROWS
from tests.models.test_twenty_five_gaussians import check_weights, quality

BROKEN: list[tuple[type[Kernel], str]] = [
    (UphillLangevin, "langevin walks on linear critic"),
    (FullDriftLangevin, "langevin walks 20 steps of ε=0.16"),
    (NoisyLangevin, "langevin stands with ε=0.16"),
    (StandardDeviationLangevin, "langevin walks on posterior from a point"),
    (ColdLangevin, "langevin with noise_scale=1.0 at T=0.25"),
    *((careless(KERNELS[name]), f"{name} stays in quadratic critic") for name in EXACT),
    *((careless(KERNELS[name]), f"{name} finds output noise") for name in EXACT),
    (StubbornMala, "mala finds latent EBM"),
    (SymmetricMala, "mala stays in linear critic"),
    (ReversedMala, "mala stays in latent EBM"),
    (NoisyMala, "mala stays in posterior"),
    (ColdMala, "mala stays in posterior at T=2.0"),
    (ColdMala, "mala finds N(.8, .3) at T=0.5"),
    (AdaptingMala, "mala finds linear critic"),
    (FullKickHmc, "hmc finds latent EBM"),
    (ForgetfulHmc, "hmc stays in posterior"),
    (ColdHmc, "hmc stays in posterior at T=0.5"),
    (ColdJudgeHmc, "hmc stays in posterior at T=2.0"),
    (PriorlessLocalGlobal, "local-global stays in linear critic"),
    (ReversedLocalGlobal, "local-global stays in posterior"),
    (ColdLocalGlobal, "local-global stays in posterior at T=0.5"),
    (RestlessLocalGlobal, "local-global stays in latent EBM"),
    (StrangersLocalGlobal, "local-global stays in posterior"),
    (StrangersLocalGlobal, "local-global finds classes"),
]


@pytest.mark.parametrize(("broken", "label"), BROKEN, ids=[f"{kernel.__name__} where {label}" for kernel, label in BROKEN])
def test_a_broken_kernel_is_caught(broken, label):
    row = ROWS[label]
    with pytest.raises(AssertionError, match="found|normal"):
        check(row, broken.model_validate(row.kernel.model_dump()))


def test_every_kernel_is_broken_somehow():
    assert {row.kernel.kernel for row in ROWS.values()} == {ROWS[label].kernel.kernel for _, label in BROKEN}


@pytest.mark.parametrize("label", ["hmc finds linear critic at β=2.0", "langevin walks on quadratic critic at β=2"])
def test_a_forgotten_critic_temperature_is_caught(label):
    row = ROWS[label]
    with pytest.raises(AssertionError, match="found"):
        check(row, row.kernel.model_copy(update={"beta": 1.0}))


def test_the_second_i_sir_is_right_before_it_is_broken():
    row = ROWS["local-global stays in posterior"]
    check(row, PlainLocalGlobal.model_validate(row.kernel.model_dump()))


def test_langevin_is_caught_leaving_the_target_that_mala_stays_in():
    row = ROWS["mala stays in linear critic"]
    check(row)
    with pytest.raises(AssertionError):
        check(row, Langevin(steps=1, step_size=row.kernel.step_size))


def test_a_local_global_kernel_that_never_jumps_is_caught_by_the_weights_of_modes():
    with pytest.raises(AssertionError, match="reverse KL"):
        check_weights(quality(LocalOnly(steps=20, step_size=0.0005), 2.0))
