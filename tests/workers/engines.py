"""Engines, jobs for them and the way to run them."""

from workers.engine import Engine, EngineSettings
from workers.jobs import GenerateJob


class Deaf:
    """An observer that remembers what was loaded."""

    def __init__(self):
        self.loads = []

    def stepped(self, *seen):
        pass

    def retired(self, *seen):
        pass

    def loaded(self, model, version, seconds):
        self.loads.append((model, version))

    def warmed(self, *seen):
        pass


def engine(store, **settings):
    return Engine(store, EngineSettings(**{"capacity": 16} | settings), Deaf())


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


def alone(store, wanted):
    only = engine(store)
    only.admit("only", wanted, None)
    return run(only)["only"]
