"""Minutes of random load, cancels, hang-ups and kills on an API and two workers: does anything grow, and is anything lost?

python -m tests.benchmarks.bench_soak [minutes]     default 10; draws docs/soak.png
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from models.checkpoints import Store
from tests.system.house import ROOT, House, OwnValkey, children, opened
from tests.tiny_models import publish_tiny

PICTURE = ROOT / "docs" / "soak.png"
CALLERS = 8
SAMPLE_EVERY_S = 1.0
WARM_UP = 0.2  # of each process's life, at least WARM_UP_S
WARM_UP_S = 60.0
KILL_EVERY_S = (100.0, 180.0)
LOST_AFTER_S = 60.0
LONG = {"model": "sngan", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": 5000}}
KEPT_S = 30  # results are forgotten soon, so that a steady state comes about


def main() -> None:
    minutes = float(sys.argv[1]) if len(sys.argv) > 1 else 10.0
    os.environ |= {"EBBTIDE_RESULT_TTL_S": str(KEPT_S), "EBBTIDE_FAILURE_TTL_S": str(KEPT_S)}
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("sngan", "lebm"):
            publish_tiny(Store(Path(folder) / "checkpoints"), kind, kind)
        valkey = OwnValkey(Path(folder) / "valkey")
        valkey.start()
        try:
            with opened(valkey.url, Path(folder) / "checkpoints", Path(folder)) as house:
                Soak(house, valkey, minutes * 60).run()
        finally:
            valkey.kill()


@dataclass(frozen=True)
class Sample:
    """One process at one moment."""

    at: float  # seconds since the soak began
    rss: float  # MB
    threads: int
    files: int
    connections: int  # to Redis


class Soak:
    """Load, kills and a look at every process each second."""

    def __init__(self, house: House, valkey: OwnValkey, seconds: float) -> None:
        self.house, self.valkey, self.seconds = house, valkey, seconds
        self.begun = time.monotonic()
        self.over = threading.Event()
        self.did: Counter[str] = Counter()
        self.lives: defaultdict[str, list[list[Sample]]] = defaultdict(list)  # of each process: a killed one begins anew
        self.pids: dict[str, int] = {}
        self.kills: list[float] = []

    def run(self) -> None:
        steady, victim = self.house.start_generation(), self.house.start_generation()
        named = {"API": self.house.processes[0], "worker": steady, "worker, killed": victim, "Valkey": self.valkey.process}
        self.begun = time.monotonic()
        callers = [threading.Thread(target=self._call, args=(random.Random(seed),)) for seed in range(CALLERS)]
        for caller in callers:
            caller.start()
        chance, kill_at = random.Random(0), random.Random(0).uniform(*KILL_EVERY_S)
        while (now := time.monotonic() - self.begun) < self.seconds:
            for name, process in named.items():
                self._look(name, process.pid, now)
                for engine in children(process.pid) if name.startswith("worker") else ():
                    self._look(name.replace("worker", "engine"), engine, now)
            if now > kill_at:
                named["worker, killed"] = self._replace(named["worker, killed"], chance)
                kill_at = now + chance.uniform(*KILL_EVERY_S)
            self.over.wait(SAMPLE_EVERY_S)
        self.over.set()
        for caller in callers:
            caller.join(LOST_AFTER_S + 10)
        self.report()

    def _replace(self, victim: subprocess.Popen[bytes], chance: random.Random) -> subprocess.Popen[bytes]:
        whom, how = chance.choice(((victim.pid, "SIGKILL"), (children(victim.pid)[0], "SIGKILL"), (victim.pid, "SIGTERM")))
        os.kill(whom, signal.Signals[how])
        self.kills.append(time.monotonic() - self.begun)
        self.did[how if whom == victim.pid else f"{how} of its engine"] += 1
        return self.house.begin_generation()

    def _look(self, name: str, pid: int, now: float) -> None:
        lives = self.lives[name]
        if not lives or pid != self.pids.get(name):
            lives.append([])
        self.pids[name] = pid
        with suppress(FileNotFoundError):  # it leaves
            lives[-1].append(look(pid, now, self.valkey.port))

    def _call(self, chance: random.Random) -> None:
        acts = (
            self._picture,
            self._picture,
            self._job,
            self._job,
            self._cancel,
            self._hang_up,
            self._events,
            self._mistake,
            self._look_around,
        )
        with httpx.Client(base_url=self.house.client.base_url, timeout=LOST_AFTER_S) as client:
            while not self.over.wait(chance.expovariate(6)):
                act = chance.choice(acts)
                try:
                    act(client, request(chance))
                except Exception as error:
                    self.did[f"unforeseen: {error!r}"] += 1
                self.did["requests"] += 1

    def _picture(self, client: httpx.Client, body: dict[str, object]) -> None:
        answer = client.post("/generate", json=body)
        self.did["pictures" if answer.status_code == 200 else f"answer {answer.status_code}"] += 1

    def _submitted(self, client: httpx.Client, body: dict[str, object]) -> str:
        answer = client.post("/generate", json=body, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        return answer.headers["X-Ebbtide-Job"]

    def _job(self, client: httpx.Client, body: dict[str, object]) -> None:
        job_id = self._submitted(client, body)
        give_up = time.monotonic() + LOST_AFTER_S
        while (status := client.get(f"/jobs/{job_id}").json()["status"]) in ("queued", "running"):
            if time.monotonic() > give_up:
                self.did["lost"] += 1
                return
            time.sleep(0.1)
        started = self.house.redis.xlen(f"rq:results:{job_id}")
        self.did["twice"] += started > 1
        self.did[f"job {status}"] += 1

    def _cancel(self, client: httpx.Client, body: dict[str, object]) -> None:
        job_id = self._submitted(client, body | LONG)
        time.sleep(0.2)
        client.delete(f"/jobs/{job_id}")
        self.did["cancels"] += 1

    def _hang_up(self, client: httpx.Client, body: dict[str, object]) -> None:
        with suppress(httpx.ReadTimeout):
            client.post("/generate", json=body | LONG, timeout=0.3)
        self.did["hang-ups"] += 1

    def _events(self, client: httpx.Client, body: dict[str, object]) -> None:
        with client.stream("GET", f"/jobs/{self._submitted(client, body)}/events") as stream:
            self.did["event streams"] += any("event: end" in line for line in stream.iter_lines())

    def _mistake(self, client: httpx.Client, body: dict[str, object]) -> None:
        assert client.post("/generate", json=body | {"num_images": 0}).status_code == 422

    def _look_around(self, client: httpx.Client, body: dict[str, object]) -> None:
        for path in ("/metrics", "/jobs", "/models", "/readyz"):
            client.get(path)

    def report(self) -> None:
        print(f"{self.seconds / 60:g} minutes, {os.cpu_count()} cores, {CALLERS} callers; {dict(sorted(self.did.items()))}")
        print(
            f"{'process':16} {'RSS':>14} {'slope':>12} {'threads':>10} {'files':>10} {'to Redis':>10}    first and last after the warm-up"
        )
        for name, lives in self.lives.items():
            settled = [kept for life in lives if len(kept := after_warm_up(life)) > 10]
            if not settled:
                continue
            first, last = settled[0], settled[-1]
            rss = f"{middle(first, 'rss', True):.0f} -> {middle(last, 'rss', False):.0f} MB"
            counts = [f"{middle(first, what, True):.0f} -> {middle(last, what, False):.0f}" for what in ("threads", "files", "connections")]
            print(f"{name:16} {rss:>14} {slope(settled):+6.2f} MB/min {counts[0]:>9} {counts[1]:>10} {counts[2]:>10}")
        draw(self.lives, self.kills)


def request(chance: random.Random) -> dict[str, object]:
    """Any model, sampler, kernel and length."""
    model = chance.choice(("sngan", "lebm"))
    sampler = chance.choice(("prior", {"sngan": "ddls", "lebm": "latent-ebm"}[model]))
    kernel = {"kernel": chance.choice(("mala", "langevin", "hmc")), "steps": int(10 ** chance.uniform(0.5, 2.5))}
    body = {"model": model, "sampler": sampler, "num_images": chance.choice((1, 1, 1, 4, 9, 16)), "seed": chance.randrange(1 << 40)}
    return body | ({} if sampler == "prior" else {"mcmc": kernel})


def look(pid: int, at: float, redis_port: int) -> Sample:
    """What the kernel knows of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    links = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            links.append(os.readlink(link))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    to_redis = {f"socket:[{row[9]}]" for row in rows if redis_port in (int(row[1][-4:], 16), int(row[2][-4:], 16))}
    rss = int(status.get("VmRSS", "0 kB").split()[0]) / 1024
    return Sample(at, rss, int(status["Threads"]), len(links), sum(link in to_redis for link in links))


def after_warm_up(life: list[Sample]) -> list[Sample]:
    if not life:
        return []
    begun, ended = life[0].at, life[-1].at
    return [sample for sample in life if sample.at - begun > max(WARM_UP_S, WARM_UP * (ended - begun))]


def middle(samples: list[Sample], what: str, first: bool) -> float:
    """The median over twenty seconds at one end."""
    few = samples[:20] if first else samples[-20:]
    return float(np.median([getattr(sample, what) for sample in few]))


def slope(lives: list[list[Sample]]) -> float:
    """MB a minute by least squares, a level of its own for each life."""
    at = np.concatenate([np.array([sample.at for sample in life]) - np.mean([sample.at for sample in life]) for life in lives])
    rss = np.concatenate([np.array([sample.rss for sample in life]) - np.mean([sample.rss for sample in life]) for life in lives])
    return float(60 * (at @ rss) / (at @ at))


def draw(lives: dict[str, list[list[Sample]]], kills: list[float]) -> None:
    """Resident memory of each process over time."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(9, 3.2), layout="constrained")
    for number, (name, of_process) in enumerate(lives.items()):
        for life in of_process:
            times, sizes = [sample.at / 60 for sample in life], [sample.rss for sample in life]
            axis.plot(times, sizes, color=f"C{number}", linewidth=1.2, label=name if life is of_process[0] else None)
    for kill in kills:
        axis.axvline(kill / 60, color="0.8", linewidth=0.8, zorder=0)
    axis.set(xlabel="minutes", ylabel="resident memory (MB)", ylim=(0, None), title="Random load, cancels, hang-ups and kills")
    axis.legend(frameon=False, ncols=3, loc="center", bbox_to_anchor=(0.5, 0.6))
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=110)
    print(f"drawn: {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
