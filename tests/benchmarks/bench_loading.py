"""What loading a checkpoint costs the chains that run: the longest tick meanwhile, and how many there are, over the median tick before.

python tests/benchmarks/bench_loading.py
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch

from models.checkpoints import Store
from workers.engine.allocator import keep_freed
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob

ROUNDS, BEFORE = 5, 50
CHAINS = (16, 48)
RUNNING, LOADED = "mnist-sngan", ("digits-sngan", "mnist-lebm")


def main() -> None:
    keep_freed()  # as the worker does
    torch.set_num_threads(1)
    print(f"{RUNNING}, ddls, mala, one thread; a job of 10 steps of another checkpoint comes in, medians of {ROUNDS} rounds")
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for chains in CHAINS:
            for model in LOADED:
                rounds = [measured(store, chains, model) for _ in range(ROUNDS)]
                longest, rate, seconds = (statistics.median(column) for column in zip(*rounds, strict=True))
                spread = f"({min(round[0] for round in rounds):.1f} to {max(round[0] for round in rounds):.1f})"
                print(f"{chains} chains, {model:12}: longest tick {longest:.1f} {spread} ordinary ones", end="")
                print(f", {100 * rate:.0f} % of the ticks before, {seconds:.2f} s until it is done")


def measured(store: Store, chains: int, model: str) -> tuple[float, float, float]:
    """The longest tick until the other's job is done and the rate of ticks meanwhile, both over what they were before; and the seconds."""
    engine = Engine(store, EngineSettings(capacity=64), lambda event: None)
    engine.admit("long", job(store, RUNNING, 10_000, chains), None)
    while engine.progress()["long"].done < BEFORE * chains:
        engine.tick()
    ordinary = statistics.median(timed(engine)[0] for _ in range(BEFORE))
    engine.admit("other", job(store, model, 10, 1), None)
    seconds = [0.0]
    over = False
    while not over:
        taken, over = timed(engine)
        seconds.append(taken)
    return max(seconds) / ordinary, ordinary * (len(seconds) - 1) / sum(seconds), sum(seconds)


def timed(engine: Engine) -> tuple[float, bool]:
    """The seconds of a tick, and whether a job ended in it."""
    begun = time.perf_counter()
    outcomes = engine.tick()
    return time.perf_counter() - begun, bool(outcomes)


def job(store: Store, model: str, steps: int, images: int) -> GenerateJob:
    card = store.card(model)
    told = {"model": model, "version": card.version, "digest": card.digest, "sampler": card.default_sampler, "seed": 1}
    return GenerateJob.model_validate(told | {"mcmc": {"kernel": "mala", "steps": steps}, "num_images": images})


if __name__ == "__main__":
    main()
