"""Engines, jobs for them and the way to run them."""

import time
from dataclasses import replace
from functools import partial

from models.inference.prepared import load as load_prepared
from workers.engine import checkpoint_cache, lane
from workers.engine.decoder import Decoder, probe
from workers.engine.engine import Engine, EngineSettings
from workers.engine.lane import Lane
from workers.engine.slices import Slices, T
from workers.jobs import GenerateJob
from workers.messages import Loaded, Measurement, Stepped

EVALUATION_S = 0.01


def at_once(work: Slices[T]) -> T:
    """What it comes to, where nobody else has to have a turn."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


class Heard:
    """An observer that keeps every measurement."""

    def __init__(self):
        self.measurements: list[Measurement] = []

    def __call__(self, measurement):
        self.measurements.append(measurement)

    def of(self, kind):
        return [each for each in self.measurements if isinstance(each, kind)]

    @property
    def loads(self):
        return [(event.model, event.version) for event in self.of(Loaded)]


class Evaluations:
    """A clock that only evaluations move on, each by as much, so that a tick's share of loading is the same in every run."""

    def __init__(self, monkeypatch):
        self.made, self.cost = 0, lambda of: 1
        evaluate = lane.evaluate
        monkeypatch.setattr(lane, "evaluate", lambda *asked: self._counted(evaluate(*asked), asked[0]))
        loading_decodes_by(monkeypatch, lambda decode, z: self._counted(decode(z), decode))
        monkeypatch.setattr(time, "perf_counter", lambda: EVALUATION_S * self.made)

    def _counted(self, result, of):
        self.made += self.cost(of)
        return result


def loading_decodes_by(monkeypatch, act):
    """Checkpoints loaded from now on decode by `act`, which is given the function that decodes and the latents."""

    def load(*asked):
        prepared = load_prepared(*asked)
        decode = partial(act, prepared.spaces["prior"].decode)
        return replace(prepared, spaces={name: replace(space, decode=decode) for name, space in prepared.spaces.items()})

    monkeypatch.setattr(checkpoint_cache, "load", load)


def measured_decoder(prepared, capacity):
    """The decoder of a checkpoint whose chains start from their normals."""
    space = prepared.spaces["prior"]
    return at_once(Decoder.measured(space.decode, probe(prepared), capacity))


def measured_lane(prepared, sampler, capacity):
    """A lane, with its batch sizes measured."""
    space = prepared.spaces[sampler]
    starter = at_once(Decoder.measured(space.start, probe(prepared), capacity))
    return at_once(Lane.measured(prepared, sampler, starter, capacity=capacity))


def engine(store, **settings):
    return Engine(store, EngineSettings(**{"capacity": 16} | settings), Heard())


def job(store, model="a", *, steps=5, images=1, version=None, **rest):
    card = store.card(model, version)
    mcmc = {"kernel": "hmc", "steps": steps, "leapfrog_steps": 1}  # hmc remembers its way: a tick done twice would show
    return GenerateJob(
        model=model, version=card.version, digest=card.digest, sampler="ddls", mcmc=mcmc, num_images=images, **{"seed": 1} | rest
    )


def run(engine, limit=5000):
    outcomes = {}
    for _ in range(limit):
        if not engine.busy:
            return outcomes
        outcomes |= {outcome.job_id: outcome for outcome in engine.tick()}
    raise AssertionError("the engine does not come to an end")


def loaded(engine, limit=5000):
    """Ticks until all is in memory, and the chains that waited for it have made their first evaluation; what ended meanwhile."""
    outcomes = {}
    for _ in range(limit):
        outcomes |= {outcome.job_id: outcome for outcome in engine.tick()}
        if not engine._lanes.loading:
            return outcomes
    raise AssertionError("the engine does not come to an end of loading")


def alone(store, wanted):
    only = engine(store)
    only.admit("only", wanted, None)
    return run(only)["only"]


def prior(store, model, images=1):
    return job(store, model, images=images).model_copy(update={"sampler": "prior", "mcmc": None})


def steps(busy, model):
    return sum(event.model == model for event in busy._observe.of(Stepped))


def ticks_until(busy, enough):
    """What ends until that is enough, in each tick."""
    told = []
    while not enough():
        told.append(busy.tick())
        assert len(told) < 5000
    return told
