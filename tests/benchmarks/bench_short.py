"""How long a short job takes over HTTP while long ones fill the batch, over its own number of steps at the batch's step time.

python tests/benchmarks/bench_short.py [short jobs]
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.system.house import House, OwnValkey, opened

STEPS = 10
LONG = {"model": "mnist-sngan", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": 1000}}
SHORT = {"model": "mnist-sngan", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": STEPS}}
LONG_JOBS, CHAINS = 64, 8  # eight times the capacity: the batch stays full and others wait, for four minutes and more
CALLERS = ("the same caller", "another caller")


class Steps(NamedTuple):
    """Steps of a batch."""

    seconds: float
    number: float


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 40
    with tempfile.TemporaryDirectory() as folder:
        valkey = OwnValkey(Path(folder) / "valkey")
        valkey.start()
        try:
            with opened(valkey.url, Path(folder) / "checkpoints", Path(folder)) as house:
                print(f"{STEPS} steps of MALA beside jobs of 1,000 ({LONG_JOBS} of {CHAINS} chains, capacity 64), mnist-sngan, over HTTP")
                worker = house.start_generation(EBBTIDE_THREADS="1", OMP_NUM_THREADS="1")
                fill(house)
                house.until(lambda: steps(house.page(worker)).number > 1)  # the checkpoint is loaded
                for caller in CALLERS:
                    report(caller, measured(house, lambda: steps(house.page(worker)), caller, count))
        finally:
            valkey.kill()


def fill(house: House) -> None:
    """Long jobs until the batch is full."""
    for seed in range(LONG_JOBS):
        ask(house, LONG | {"num_images": CHAINS, "seed": seed}, CALLERS[0], {"Prefer": "respond-async"})
    house.until(lambda: house.statuses()["running"] >= 64 // CHAINS)


def measured(house: House, look: Callable[[], Steps], caller: str, count: int) -> list[float]:
    """Of each short job, seconds from request to picture over STEPS + 1 evaluations at the mean step time meanwhile."""
    chance, ratios = random.Random(1), []
    for seed in range(count):
        time.sleep(chance.uniform(0, 0.3))
        before, begun = look(), time.perf_counter()
        ask(house, SHORT | {"num_images": 1, "seed": seed}, caller, {})
        took, after = time.perf_counter() - begun, look()
        ratios.append(took / ((STEPS + 1) * (after.seconds - before.seconds) / (after.number - before.number)))
    return ratios


def ask(house: House, body: dict[str, object], caller: str, headers: dict[str, str]) -> None:
    house.client.post("/generate", json=body, headers={"X-Ebbtide-Caller": caller} | headers, timeout=120).raise_for_status()


def steps(page: dict[str, float]) -> Steps:
    """The worker's so far."""
    seconds, number = (sum(page[name] for name in page if name.startswith(f"ebbtide_step_seconds_{kind}")) for kind in ("sum", "count"))
    return Steps(seconds, number)


def report(caller: str, ratios: list[float]) -> None:
    p99 = statistics.quantiles(ratios, n=100)[98]
    print(f"{caller:<16} {len(ratios)} jobs: time over own steps   median {statistics.median(ratios):.2f}, p99 {p99:.2f}")


if __name__ == "__main__":
    main()
