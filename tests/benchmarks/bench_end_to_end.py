"""What the service keeps of the bare batched call: evaluations (chain-steps) a second from `POST /generate` over those of `evaluate` alone.

Each round sends 32 jobs of 16 `mnist-sngan` chains, `ddls` with the card's kernel, eight in flight over HTTP; then it calls `evaluate` of
the prepared target on as many chains as the engine runs at once, with as many threads. There are two set-ups: a generation worker that
leaves one core to everything else (goal 0.95), and `ebbtide up` as it comes, with an idle trainer, against the bare call on all cores
(goal 0.9). Processor time per 1,000 evaluations says what is lost even where other programs share the machine.

    python -m tests.benchmarks.bench_end_to_end [rounds]
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import httpx
import torch

from models import device
from models.checkpoints import Store
from models.inference.prepared import load
from models.targets.base import evaluate
from tests.benchmarks.bench_http import processor_s
from tests.system.house import ROOT, OwnValkey, figures, free_port, opened, until
from workers.engine.allocator import keep_freed
from workers.settings import WorkerSettings, cores

MODEL, CHAINS, JOBS, IN_FLIGHT, ROUNDS = "mnist-sngan", 16, 32, 8, 5
BARE_S = 5.0
COUNTER = f'ebbtide_chain_steps_total{{model="{MODEL}",sampler="ddls"}}'


class Rate(NamedTuple):
    """What a round gave."""

    per_s: float  # evaluations
    cpu_s: float  # processor seconds of all processes, per 1,000 evaluations
    engine_cpu_s: float  # the engine's part


@dataclass
class Service:
    """Where to send requests, where the worker's metrics are, and the processes that answer."""

    url: str
    page: str
    pids: tuple[int, ...]

    def rate(self) -> Rate:
        before, begun = self._counted(), time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as callers:
            for status in callers.map(self._generate, range(JOBS)):
                assert status == 200, status
        seconds, after = time.perf_counter() - begun, self._counted()
        done, cpu_s, engine_cpu_s = (new - old for new, old in zip(after, before, strict=True))
        return Rate(done / seconds, 1000 * cpu_s / done, 1000 * engine_cpu_s / done)

    def _generate(self, seed: int) -> int:
        body = {"model": MODEL, "sampler": "ddls", "num_images": CHAINS, "seed": seed}
        return httpx.post(f"{self.url}/generate", json=body, timeout=300, trust_env=False).status_code

    def _counted(self) -> tuple[float, float, float]:
        page = figures(httpx.get(self.page, timeout=30, trust_env=False).text)
        cpu_s = sum(processor_s(pid) for pid in self.pids)
        return page.get(COUNTER, 0.0), cpu_s, page["ebbtide_engine_process_cpu_seconds_total"]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    keep_freed()  # as the worker does
    chains, spare = WorkerSettings().capacity, max(1, cores() - 1)
    print(
        f"{MODEL}, ddls, {JOBS} jobs of {CHAINS} chains, {IN_FLIGHT} in flight, {chains} at once, {cores()} cores, {rounds} rounds in turn"
    )
    with tempfile.TemporaryDirectory() as folder:
        with worker_beside_the_rest(Path(folder), spare) as service:
            compare(f"a worker of {spare} threads", 0.95, service.rate, partial(bare, chains, spare), rounds)
        with everything_up(Path(folder) / "up") as service:
            compare(f"`ebbtide up`, {cores()} threads", 0.9, service.rate, partial(bare, chains, cores()), rounds)


def compare(name: str, goal: float, served: Callable[[], Rate], alone: Callable[[], Rate], rounds: int) -> None:
    """Prints both rates, their ratio and what each costs the processor."""
    served()  # loads the checkpoint
    alone()
    pairs = [(served(), alone()) for _ in range(rounds)]
    ratios = [ours.per_s / bare.per_s for ours, bare in pairs]
    costs = [ours.cpu_s / bare.cpu_s for ours, bare in pairs]
    engine = statistics.median(ours.engine_cpu_s for ours, _ in pairs)
    print(f"{name}: served {spread([ours.per_s for ours, _ in pairs], 0)}/s, bare call {spread([bare.per_s for _, bare in pairs], 0)}/s")
    print(f"    served / bare call {spread(ratios, 3)}, goal {goal}; load average {os.getloadavg()[0]:.1f}")
    print(f"    processor time, all processes / bare call {spread(costs, 3)}, the engine's part {engine:.3f} s per 1,000", flush=True)


def spread(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def bare(chains: int, threads: int) -> Rate:
    """The prepared target's energy and gradient for a full batch, again and again."""
    torch.set_num_threads(threads)
    store = Store(Path("nowhere"))
    target = load(store, store.card(MODEL), device.resolve("cpu")).targets["ddls"]
    z = torch.randn(chains, store.card(MODEL).latent_shape[0])
    for _ in range(3):
        evaluate(target, z)
    calls, begun, cpu = 0, time.perf_counter(), time.process_time()
    while (seconds := time.perf_counter() - begun) < BARE_S:
        evaluate(target, z)
        calls += 1
    done, cpu_s = calls * chains, time.process_time() - cpu
    return Rate(done / seconds, 1000 * cpu_s / done, 1000 * cpu_s / done)


@contextmanager
def worker_beside_the_rest(folder: Path, threads: int) -> Iterator[Service]:
    """Valkey, the API and a generation worker."""
    valkey = OwnValkey(folder / "valkey")
    valkey.start()
    try:
        with opened(valkey.url, folder / "checkpoints", folder) as house:
            worker = house.start_generation(EBBTIDE_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
            pids = (valkey.process.pid, house.processes[0].pid, worker.pid)
            yield Service(f"http://127.0.0.1:{house.port}", f"http://127.0.0.1:{house.pages[worker]}/metrics", pids)
    finally:
        valkey.kill()


@contextmanager
def everything_up(data: Path) -> Iterator[Service]:
    """`ebbtide up` with its own Valkey and a trainer that has nothing to do."""
    port = free_port()
    command = [sys.executable, "-c", "from service.command.cli import main; main()", "up", "--port", str(port), "--data", str(data)]
    env = {name: value for name, value in os.environ.items() if not name.startswith(("EBBTIDE_", "OMP_"))}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        page = next(line.split("of workers ")[1].split()[0] for line in process.stdout if "of workers" in line)
        until(lambda: httpx.get(page, trust_env=False).status_code == 200)
        yield Service(f"http://127.0.0.1:{port}", page, (process.pid,))
    finally:
        process.terminate()
        process.communicate(timeout=120)


if __name__ == "__main__":
    main()
