"""Continuous against static batching on one engine: jobs a second from a saturating backlog, latency under Poisson arrivals, and what
jobs of 10 steps wait for that arrive beside a backlog of jobs of 1,000.

Jobs have 10 to 1,000 steps (log-uniform) and 1 to 16 chains. Static batching is the same engine, given jobs until the batch is full and
no more until all of them are done. Latencies count ticks, so that both see the same clock.

    python -m tests.benchmarks.bench_batching [jobs]
"""

import math
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from models.cards import ModelCard
from models.checkpoints import Store
from workers.engine.engine import Engine, EngineSettings
from workers.jobs import GenerateJob

CAPACITY = 64


@dataclass
class Arrival:
    """A job and the tick it comes at."""

    job: GenerateJob
    at: float


def workload(store: Store, count: int, seed: int, spacing: float = 0.0) -> list[Arrival]:
    """Jobs of mixed length and size, `spacing` ticks apart on average."""
    draw, card, at = random.Random(seed), store.card("mnist-lebm"), 0.0
    arrivals = []
    for number in range(count):
        steps = round(math.exp(draw.uniform(math.log(10), math.log(1000))))
        at += draw.expovariate(1 / spacing) if spacing else 0.0
        arrivals.append(Arrival(request(card, steps, draw.randint(1, 16), number), at))
    return arrivals


def request(card: ModelCard, steps: int, images: int, seed: int) -> GenerateJob:
    told = {"model": card.name, "version": card.version, "digest": card.digest, "sampler": "latent-ebm"}
    return GenerateJob.model_validate(told | {"mcmc": {"kernel": "mala", "steps": steps}, "num_images": images, "seed": seed})


def loaded(store: Store) -> Engine:
    """An engine that has the checkpoint in memory."""
    engine = Engine(store, EngineSettings(capacity=CAPACITY), lambda event: None)
    engine.admit("first", request(store.card("mnist-lebm"), 1, 1, 0), None)
    while engine.busy:
        engine.tick()
    return engine


def beside(store: Store, count: int, share: float) -> list[float]:
    """Ticks over steps of `count` jobs of 10 steps that arrive, as Poisson, beside a backlog of jobs of 1,000; all of one caller.

    They take up `share` of the capacity.
    """
    engine, card, draw = loaded(store), store.card("mnist-lebm"), random.Random(3)
    at, arrivals = 0.0, deque[tuple[float, int]]()
    for _ in range(count):
        at += draw.expovariate(share * CAPACITY / (11 * 2.5))  # 11 ticks of 2.5 chains
        arrivals.append((100 + at, draw.randint(1, 4)))
    ratios: list[float] = []
    came: dict[str, float] = {}
    tick = 0
    while len(ratios) < count:
        while engine.free:
            engine.admit(f"long {tick} {engine.free}", request(card, 1000, draw.randint(1, 16), tick), None)
        while arrivals and arrivals[0][0] <= tick:
            arrived, images = arrivals.popleft()
            came[f"quick {len(came)}"] = arrived
            engine.admit(f"quick {len(came) - 1}", request(card, 10, images, len(came)), None)
        tick += 1
        ratios += [(tick - came[outcome.job_id]) / 10 for outcome in engine.tick() if outcome.job_id in came]
    return ratios


def running(store: Store, arrivals: list[Arrival], admits: Callable[[Engine, int], bool], latencies: list[float]) -> Iterator[float]:
    """Runs all jobs on an engine that has loaded the checkpoint; tells the share of those that ended after each tick.

    Notes each job's ticks from arrival to end; `admits` says whether a job may join now.
    """
    engine = loaded(store)
    waiting, came, tick = deque(arrivals), {}, 0
    yield 0.0
    while waiting or engine.busy:
        room = CAPACITY
        while waiting and waiting[0].at <= tick and admits(engine, room):
            arrival = waiting.popleft()
            room -= arrival.job.num_images
            came[str(arrival.job.seed)] = arrival.at
            engine.admit(str(arrival.job.seed), arrival.job, None)
        if not engine.busy:
            tick = max(tick + 1, math.ceil(waiting[0].at))
            continue
        tick += 1
        latencies += [tick - came[outcome.job_id] for outcome in engine.tick()]
        yield len(latencies) / len(arrivals)


def latencies(store: Store, arrivals: list[Arrival], admits: Callable[[Engine, int], bool]) -> list[float]:
    """Ticks from arrival to end of each job."""
    seen: list[float] = []
    deque(running(store, arrivals, admits, seen), maxlen=0)
    return seen


def gain(store: Store, arrivals: list[Arrival]) -> float:
    """Jobs a second, continuous over static; both run in turn, tick by tick, so that the machine is as fast for both."""
    runs = [running(store, arrivals, admits, []) for admits in (static(), continuous)]
    shares, seconds = [next(run) for run in runs], [0.0, 0.0]
    while min(shares) < 1:
        behind = shares.index(min(shares))
        started = time.perf_counter()
        shares[behind] = next(runs[behind])
        seconds[behind] += time.perf_counter() - started
    return seconds[0] / seconds[1]


def static() -> Callable[[Engine, int], bool]:
    """Admits into an empty engine only, until a batch is full."""
    filling = {"open": True}

    def admits(engine: Engine, room: int) -> bool:
        if room == CAPACITY:
            filling["open"] = not engine.busy
        return filling["open"] and engine.free > 0

    return admits


def continuous(engine: Engine, room: int) -> bool:
    return engine.free > 0


def main() -> None:
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 150
    store = Store(Path(tempfile.mkdtemp()))
    backlog = workload(store, count, seed=1)
    gains = [gain(store, backlog) for _ in range(3)]
    per_tick = CAPACITY / statistics.mean(arrival.job.num_images * (arrival.job.mcmc.steps + 1) for arrival in backlog if arrival.job.mcmc)
    steady = workload(store, count, seed=2, spacing=1 / (0.6 * per_tick))
    waited, flowed = latencies(store, steady, static()), latencies(store, steady, continuous)
    print(f"mnist-lebm, mala, {count} jobs of 10 to 1,000 steps and 1 to 16 chains, capacity {CAPACITY}, 1 thread")
    spread = f"({min(gains):.2f} to {max(gains):.2f})"
    print(f"saturating backlog: finished jobs a second, continuous / static   {statistics.median(gains):.2f}  {spread}")
    share = statistics.median(flowed) / statistics.median(waited)
    print(f"Poisson arrivals at 60 % of capacity: median latency, continuous / static   {share:.2f}")
    for share in (0.05, 0.2, 0.5):
        ratios = statistics.quantiles(beside(store, 20 * count, share), n=100)
        print(
            f"10 steps beside jobs of 1,000, at {share:.0%} of capacity: ticks over steps   median {ratios[49]:.2f}, p99 {ratios[98]:.2f}"
        )


if __name__ == "__main__":
    main()
