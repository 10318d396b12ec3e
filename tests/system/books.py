"""What must hold whenever everything is over, whatever happened before: all records agree, and nothing of a job stays for ever."""

import subprocess
import sys
from typing import Any

from rq import Queue, Worker
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry

from tests.system.house import House, until
from workers.jobs.generate import ALONE_QUEUE
from workers.queue.routing import QUEUES

REGISTRIES = {"finished": FinishedJobRegistry, "failed": FailedJobRegistry, "canceled": CanceledJobRegistry}
KEPT_FOR_EVER = ("rq:queues", "rq:workers", "rq:finished:", "rq:failed:", "rq:canceled:")
KEPT_FOR_EVER += ("ebbtide:recent", "ebbtide:backlog", "ebbtide:kept")


def close_the_books(house: House, *ids: str) -> None:
    """Waits until all jobs are over, then compares what the API, RQ, `rq info`, the workers' pages and Redis itself tell."""
    jobs = until(lambda: (seen := house.jobs()) and all(job["status"] not in ("queued", "running") for job in seen.values()) and seen)
    assert set(ids) <= set(jobs), "accepted jobs are unknown"
    for job in jobs.values():
        _check_job(house, job)
    _check_registries(house, jobs)
    until(lambda: _counts_of_rq(house) == _counts_of_metrics(house), limit_s=15)  # the dead are noticed within a few seconds
    _check_pages(house)
    _check_keys(house, jobs)


def _check_job(house: House, job: dict[str, Any]) -> None:
    """Ended once, if it was started, and told so; images of a finished job are all there, and no other job has any."""
    events = house.events(job["id"])
    assert events.index("end") == len(events) - 1, (job["id"], job["status"], events)
    results = house.redis.xlen(f"rq:results:{job['id']}")
    assert results == (0 if events == ["queued", "end"] else 1), (job["id"], job["status"], results)
    assert (job["problem"] is None) == (job["status"] == "finished")
    stored = {key.decode().rpartition(":")[2] for key in house.redis.scan_iter(f"ebbtide:artifact:{job['id']}:*")}
    if not house.env.get("EBBTIDE_ARTIFACTS"):
        assert stored == (set(job["result"]["artifacts"]) if job["status"] == "finished" else set())


def _check_registries(house: House, jobs: dict[str, dict[str, Any]]) -> None:
    for name in QUEUES:
        queue = Queue(name, connection=house.redis, serializer="json")
        assert queue.count == 0
        assert house.redis.llen(queue.intermediate_queue.key) == 0
        until(lambda queue=queue: StartedJobRegistry(queue=queue).get_job_count(cleanup=False) == 0, limit_s=10)
        held = {kind: set(registry(queue=queue).get_job_ids(cleanup=False)) for kind, registry in REGISTRIES.items()}
        of_queue = {job_id: job for job_id, job in jobs.items() if _queue_of(house, job) == name}
        assert held["finished"] == {job_id for job_id, job in of_queue.items() if job["status"] == "finished"}
        assert held["failed"] | held["canceled"] == set(of_queue) - held["finished"]
        assert not held["failed"] & held["canceled"]


def _queue_of(house: House, job: dict[str, Any]) -> str:
    if house.redis.hget(f"rq:job:{job['id']}", "origin") == ALONE_QUEUE.encode():
        return ALONE_QUEUE
    if job["job"]["kind"] == "train":
        return "train"
    return {"normal": "generate"}.get(job["job"]["priority"], f"generate-{job['job']['priority']}")


def _counts_of_rq(house: House) -> dict[str, int]:
    """Waiting jobs of each queue and live workers, as `rq info` prints them; its own registries must say the same."""
    command = [sys.executable, "-m", "rq.cli", "info", "--raw", "--url", house.env["EBBTIDE_REDIS_URL"]]
    lines = [line.split() for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()]
    waiting = {line[1]: int(line[2].rstrip(",")) for line in lines if line[0] == "queue"}
    finished = {line[1]: int(line[5]) for line in lines if line[0] == "queue"}
    for name in waiting:
        queue = Queue(name, connection=house.redis, serializer="json")
        assert finished[name] == FinishedJobRegistry(queue=queue).get_job_count(cleanup=False)
    workers = [line for line in lines if line[0] == "worker"]
    return {name: waiting.get(name, 0) for name in QUEUES} | {"workers": len(workers)}


def _counts_of_metrics(house: House) -> dict[str, int]:
    told = house.metrics()
    waiting = {name: int(told[f'ebbtide_queue_depth{{queue="{name}"}}']) for name in QUEUES}
    return waiting | {"workers": sum(int(value) for name, value in told.items() if name.startswith("ebbtide_workers_alive"))}


def _check_pages(house: House) -> None:
    """What live workers export is what RQ has counted for them."""
    counted = {worker.pid: (worker.successful_job_count, worker.failed_job_count) for worker in Worker.all(house.redis)}
    for process in [process for process in house.pages if process.poll() is None]:
        told = until(lambda process=process: (page := house.page(process))["ebbtide_jobs_running"] == 0 and page, limit_s=10)
        ended = {True: 0, False: 0}
        for name, value in told.items():
            if name.startswith("ebbtide_jobs_total"):
                ended['outcome="finished"' in name] += int(value)
        assert (ended[True], ended[False]) == counted[process.pid]


def _check_keys(house: House, jobs: dict[str, dict[str, Any]]) -> None:
    """No key that belongs to a job stays for ever, and of all keys only the known few do."""
    for key in house.redis.scan_iter(count=1000):
        if house.redis.ttl(key) != -1:
            continue
        name = key.decode()
        assert not any(job_id in name for job_id in jobs), f"{name} has no time to live"
        assert name.startswith(KEPT_FOR_EVER), f"{name} has no time to live"
