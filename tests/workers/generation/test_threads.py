"""The engine's threads: all but while a run trains on this machine, and the same images with any number of them."""

import time
from pathlib import Path

import torch

from models.checkpoints import Store
from tests.workers.test_training_lock import end, run
from workers.engine.engine import Engine, EngineSettings
from workers.generation.threads import SharedThreads
from workers.jobs import GenerateJob


def test_the_engine_gives_way_to_a_run_within_a_second_and_takes_its_cores_back(settings, eventually):
    used = []
    settings = settings.model_copy(update={"threads": 4, "threads_beside_training": 3})
    threads = SharedThreads(settings, used.append)
    assert threads.share() == 4
    training = run(settings.training_lock)
    eventually(lambda: threads.share() == 3, limit_s=1)
    assert used == [3]
    end(training)  # kill -9
    eventually(lambda: threads.share() == 4, limit_s=1)
    assert used == [3, 4]


def test_a_tick_may_ask_since_a_look_is_rare(settings):
    threads = SharedThreads(settings, lambda number: None)
    begun = time.perf_counter()
    for _ in range(100_000):
        threads.share()
    assert time.perf_counter() - begun < 1  # 10 us each, where a look takes more; measured 0.1 us


def test_threads_that_come_and_go_between_ticks_leave_the_bytes_alone(monkeypatch):
    store, before = Store(Path("nowhere")), torch.get_num_threads()
    card = store.card("digits-sngan")
    about = {"model": card.name, "version": card.version, "digest": card.digest, "sampler": "ddls", "num_images": 5, "seed": 3}
    job = GenerateJob.model_validate(about | {"mcmc": {"kernel": "mala", "steps": 12}})

    def pixels(*threads: int) -> bytes:
        engine = Engine(store, EngineSettings(), lambda event: None)
        engine.admit("job", job, None)
        ended = []
        for tick in range(10_000):
            torch.set_num_threads(threads[tick % len(threads)])
            if ended := engine.tick():
                break
        return ended[0].pixels

    try:
        assert pixels(1) == pixels(2) == pixels(1, 2, 2)
    finally:
        torch.set_num_threads(before)
