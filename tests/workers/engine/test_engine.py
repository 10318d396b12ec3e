"""The engine: same request same bits in any company, one evaluation for all kernels, and one job's trouble is its own."""

import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models import noise
from models.images import to_pixels
from models.inference.prepared import Prepared, load
from models.kernels import KERNELS, Chains, Evaluated
from models.targets.base import evaluate
from tests.tiny_models import publish_tiny
from tests.workers.engine.engines import Heard, alone, loaded, measured_decoder, run
from workers.engine import lane as lane_module
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob, Problem
from workers.messages import ChainsRetired, EngineTicked, Failed, Finished, Stepped, Warmed

SAMPLERS = {"gan": ["prior", "ddls"], "ebm": ["prior", "latent-ebm"]}


@pytest.fixture
def engine(store):
    return Engine(store, EngineSettings(capacity=16), Heard())


def job(store, model, sampler, *, mcmc=None, images=1, seed=0, **rest):
    card = store.card(model)
    kernel = None if sampler == "prior" else {"kernel": "mala", "steps": 5, **(mcmc or {})}
    return GenerateJob(
        model=model, version=card.version, digest=card.digest, sampler=sampler, mcmc=kernel, num_images=images, seed=seed, **rest
    )


@pytest.mark.parametrize("model", SAMPLERS)
def test_every_sampler_gives_images(engine, store, model):
    for sampler in SAMPLERS[model]:
        engine.admit(sampler, job(store, model, sampler, images=3), None)
    outcomes = run(engine)
    for sampler in SAMPLERS[model]:
        assert outcomes[sampler].images.shape == (3, 8, 8, 1)
        assert outcomes[sampler].images.dtype == np.uint8
        assert len(outcomes[sampler].chains) == 3
    assert outcomes["prior"].chains[0].energy_first is None
    assert outcomes[SAMPLERS[model][1]].diagnostics.exact is True


class Counter:
    """The counter-based noise of one chain at one step, for the oracle below."""

    def __init__(self, draws, latent):
        self.draws, self.latent = draws, latent

    def normal(self):
        return self.normals()[:, 0].contiguous()

    def normals(self):
        return self.draws.normal[0].unflatten(1, (-1, self.latent))

    def log_uniform(self):
        return self.draws.log_uniform[0]


def oracle(prepared: Prepared, wanted: GenerateJob) -> torch.Tensor:
    """A job's latents by the plain loop, one kernel, no batch engine, padded to a size that gives the same bits."""
    kernel, target, (latent,) = wanted.mcmc, prepared.targets[wanted.sampler], prepared.card.latent_shape
    count, padding = wanted.num_images, 16 - wanted.num_images
    streams = noise.Streams(torch.full((16,), wanted.seed), torch.arange(16))
    z = noise.start(streams, (latent,))
    columns = {name: z.new_full((16, 1), getattr(kernel, name)) for name in kernel.columns}
    chains = Chains(*evaluate(target, z), columns)
    kernel.begin(chains)
    for step in range(kernel.ticks):
        tick = Counter(noise.draw(streams, torch.full((1, 16), step), latent * kernel.normals_per_tick), latent)
        chains.wide = torch.arange(16 if kernel.is_wide(step) else 0)
        points = kernel.propose(chains, tick)
        padded = F.pad(points, (0, 0, 0, -len(points) % 16))
        kernel.update(chains, Evaluated(*(column[: len(points)] for column in evaluate(target, padded))), tick)
    assert padding >= 0
    return chains.z[:count]


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_engine_does_what_the_plain_loop_does(store, kernel):
    wanted = job(store, "gan", "ddls", mcmc={"kernel": kernel, "steps": 37, "step_size": 0.2}, images=5, seed=9)
    prepared = load(store, store.card("gan"), torch.device("cpu"))
    expected = to_pixels(measured_decoder(prepared, 16)(oracle(prepared, wanted)))
    assert np.array_equal(alone(store, wanted).images, expected)


REQUESTS = st.tuples(
    st.sampled_from([("gan", "ddls"), ("ebm", "latent-ebm"), ("gan", "prior")]),
    st.sampled_from(sorted(KERNELS)),
    st.integers(1, 30),
    st.sampled_from([0.05, 0.3]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(1, 7),
    st.integers(0, 2**63 - 1),
)


def request(store, drawn):
    (model, sampler), kernel, steps, step_size, temperature, images, seed = drawn
    mcmc = {"kernel": kernel, "steps": steps, "step_size": step_size, "temperature": temperature}
    return job(store, model, sampler, mcmc=mcmc, images=images, seed=seed)


@settings(max_examples=15, deadline=None)
@given(wanted=REQUESTS, neighbours=st.lists(st.tuples(st.integers(0, 12), REQUESTS, st.booleans()), max_size=5), joins_at=st.integers(0, 9))
def test_the_same_request_has_the_same_bits_in_any_company(store, wanted, neighbours, joins_at):
    wanted = request(store, wanted)
    engine, outcomes = Engine(store, EngineSettings(capacity=16), Heard()), {}
    for tick in range(40):
        for number, (at, neighbour, leaves) in enumerate(neighbours):
            if at == tick:
                engine.admit(f"neighbour {number}", request(store, neighbour).model_copy(update={"caller": "ab"[number % 2]}), None)
            if leaves and at + 4 == tick:
                engine.end_early(f"neighbour {number}", Problem(reason="canceled", detail=""))
        if tick == joins_at:
            engine.admit("wanted", wanted, None)
        outcomes |= {outcome.job_id: outcome for outcome in engine.tick()}
    together, apart = (outcomes | run(engine))["wanted"], alone(store, wanted)
    assert np.array_equal(together.images, apart.images)
    assert together.chains == apart.chains
    assert together.diagnostics == apart.diagnostics


def test_one_and_two_threads_give_the_same_bits(store):
    wanted = job(store, "gan", "ddls", mcmc={"steps": 25}, images=7, seed=3)
    before = torch.get_num_threads()
    try:
        images = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            images.append(alone(store, wanted).images)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*images)


def test_chains_of_all_kernels_share_one_evaluation_a_tick(engine, store, monkeypatch):
    for number, kernel in enumerate(KERNELS):
        engine.admit(kernel, job(store, "gan", "ddls", mcmc={"kernel": kernel, "steps": 4 + number}, images=2), None)
    loaded(engine)
    calls = []
    monkeypatch.setattr(lane_module, "evaluate", lambda target, z, data: calls.append(len(z)) or evaluate(target, z, data))
    engine.tick()
    assert len(calls) == 1
    assert calls[0] >= 2 * len(KERNELS)


def test_a_chain_that_diverges_fails_its_own_job_and_no_other(engine, store):
    wild = {"kernel": "langevin", "steps": 200, "step_size": 3.9, "noise_scale": 10.0, "temperature": 100.0}
    engine.admit("calm", job(store, "ebm", "latent-ebm", seed=4), None)
    engine.admit("wild", _hot(store, wild), None)
    outcomes = run(engine)
    assert isinstance(outcomes["calm"], Finished)
    assert isinstance(outcomes["wild"], Failed)
    assert outcomes["wild"].problem.reason == "diverged"
    assert "diverged at step" in outcomes["wild"].problem.detail
    assert np.array_equal(outcomes["calm"].images, alone(store, job(store, "ebm", "latent-ebm", seed=4)).images)


def _hot(store, mcmc):
    """A job whose target is made to overflow: its own model, with weights blown up."""
    card = publish_tiny(store, "lebm", "ebm-hot", seed=1)
    weights = store.weights(card)
    weights["f.layers.4.weight"] = weights["f.layers.4.weight"] * 1e38
    published = store.publish(card, weights, b"")
    return job(store, "ebm-hot", "latent-ebm", mcmc=mcmc, images=2).model_copy(
        update={"version": published.version, "digest": published.digest}
    )


def test_cancel_takes_effect_on_the_next_tick(engine, store):
    engine.admit("long", job(store, "gan", "ddls", mcmc={"steps": 1000}, images=4), None)
    loaded(engine)
    engine.end_early("long", Problem(reason="canceled", detail="by its owner"))
    assert [outcome.problem.reason for outcome in engine.tick()] == ["canceled"]
    assert not engine.busy
    assert engine.free == 16


def test_a_deadline_that_passes_ends_the_job_as_expired(engine, store):
    engine.admit("late", job(store, "gan", "ddls", mcmc={"steps": 10_000}, deadline_s=1), time.time() - 0.001)
    assert [outcome.problem.reason for outcome in engine.tick()] == ["expired"]


def test_prior_jobs_overtake_long_chains(engine, store):
    engine.admit("long", job(store, "gan", "ddls", mcmc={"steps": 1000}, images=40), None)
    loaded(engine)
    assert engine.free == 0
    engine.admit("prior", job(store, "gan", "prior", images=50), None)
    assert [outcome.job_id for outcome in engine.tick()] == ["prior"]


def test_more_chains_than_capacity_all_come_out(engine, store):
    wanted = job(store, "gan", "ddls", images=70, seed=1)
    engine.admit("many", wanted, None)
    images = run(engine)["many"].images
    assert len(images) == 70
    assert np.array_equal(images[:7], alone(store, wanted.model_copy(update={"num_images": 7})).images)


def test_progress_counts_chain_steps(engine, store):
    engine.admit("job", job(store, "gan", "ddls", mcmc={"steps": 10}, images=2), None)
    loaded(engine)
    assert (engine.progress()["job"].done, engine.progress()["job"].total) == (0, 20)
    engine.tick()
    assert engine.progress()["job"].done == 2


def test_damaged_weights_fail_the_job_that_asks_for_them(engine, store):
    card = publish_tiny(store, "sngan", "damaged")
    (store.folder(card) / "weights.safetensors").write_bytes(b"not these")
    engine.admit("damaged", job(store, "damaged", "ddls"), None)
    engine.admit("prior of damaged", job(store, "damaged", "prior"), None)
    engine.admit("sound", job(store, "gan", "ddls"), None)
    outcomes = run(engine)
    assert outcomes["damaged"].problem.reason == outcomes["prior of damaged"].problem.reason == "unavailable"
    assert "sha256" in outcomes["damaged"].problem.detail
    assert isinstance(outcomes["sound"], Finished)


def test_the_observer_hears_of_ticks_and_of_chains_that_left(engine, store):
    engine.admit("job", job(store, "gan", "ddls", mcmc={"steps": 3}, images=5), None)
    run(engine)
    heard = engine._observe
    assert [stepped.chains for stepped in heard.of(Stepped)] == [5] * 4
    within = sum(stepped.seconds for stepped in heard.of(Stepped))
    assert len(heard.of(EngineTicked)) == 4
    assert within < sum(ticked.seconds for ticked in heard.of(EngineTicked))
    (left,) = heard.of(ChainsRetired)
    assert (left.model, left.sampler, left.chains, left.nonfinite) == ("gan", "ddls", 5, 0)
    assert heard.loads == [("gan", 1)]
    (warmed,) = heard.of(Warmed)
    assert (warmed.model, warmed.sampler, max(warmed.seconds)) == ("gan", "ddls", 16)
    assert all(each > 0 for each in warmed.seconds.values())
    assert warmed.taken.keys() == warmed.seconds.keys()
