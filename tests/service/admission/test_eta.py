"""The ETA of a job, from the workers' step tables and recent slowdown."""

import time

import pytest

from service.admission.eta import eta_s
from service.protocol.metrics import QueueState
from workers.jobs import GenerateJob, JobView, Progress, Status
from workers.queue.routing import QUEUES
from workers.queue.views import QueueView, WorkerView
from workers.queue.worker_load import LaneLoad

TABLE = {4: 0.01, 8: 0.015, 16: 0.02}
QUIET = {"name": "w", "kind": "generate", "state": "busy", "jobs": 0, "heartbeat_age_s": 0.0, "capacity": 16}


def job(images: int, *, sampler: str = "ddls", kernel: str = "langevin") -> GenerateJob:
    mcmc = {"kernel": kernel, "steps": 99}  # and the evaluation of where it starts
    return GenerateJob(model="toy", version=1, digest="0" * 64, sampler=sampler, mcmc=mcmc, num_images=images, seed=1)


def lane(points: int, sampler: str = "ddls", table: dict[int, float] = TABLE) -> LaneLoad:
    return LaneLoad(model="toy", sampler=sampler, points=points, step_seconds=table)


def worker(*lanes: LaneLoad, **known: object) -> WorkerView:
    return WorkerView.model_validate(QUIET | {"lanes": lanes} | known)


def queued(asked: GenerateJob, *workers: WorkerView, depth: int = 0, backlog: int = 0) -> float | None:
    view = JobView(id="1", status=Status.QUEUED, job=asked, created_at=time.time(), queue_position=depth)
    empty = [QueueView(name=name, depth=0, oldest_age_s=0.0, backlog_chain_steps=0) for name in QUEUES if name != "generate"]
    return eta_s(
        view, QueueState((QueueView(name="generate", depth=depth + 1, oldest_age_s=0.0, backlog_chain_steps=backlog), *empty), workers)
    )


def running(asked: GenerateJob, *workers: WorkerView, done: int = 0, for_s: float = 0.0) -> float | None:
    total = asked.num_images * asked.mcmc.ticks
    progress = Progress(done=done, total=total) if done else None
    now = time.time()
    view = JobView(
        id="1", status=Status.RUNNING, job=asked, created_at=now, started_at=now - for_s, progress=progress, worker=workers[0].name
    )
    return eta_s(view, QueueState((), workers))


TICKS = job(1).mcmc.ticks


def test_a_fresh_worker_is_estimated_by_its_table():
    assert queued(job(3), worker(lane(0))) == pytest.approx(TICKS * 0.01)
    assert running(job(3), worker(lane(3))) == pytest.approx(TICKS * 0.015, abs=0.01)


def test_there_is_no_estimate_without_a_table_or_a_pace():
    assert queued(job(3), worker()) is None
    assert queued(job(3), worker(lane(0, "latent-ebm"))) is None


def test_a_step_counts_the_chains_already_in_the_batch():
    pace = {"chain_steps_per_s": 100.0}  # of one chain alone: says little of a batch
    assert queued(job(4), worker(lane(1), slowdown=1.0, chains_stepping=1, **pace)) == pytest.approx(TICKS * 0.015)
    assert queued(job(8), worker(lane(1), slowdown=1.0, chains_stepping=1, **pace)) == pytest.approx(TICKS * 0.02)


def test_a_worker_slower_than_its_table_is_estimated_by_its_slowdown():
    assert queued(job(3), worker(lane(0), slowdown=2.5)) == pytest.approx(2.5 * TICKS * 0.01)


def test_lanes_take_turns():
    others = lane(8, "latent-ebm", {8: 0.1})
    assert queued(job(3), worker(lane(1), others, chains_stepping=9)) == pytest.approx(TICKS * (0.01 + 0.1))


def test_a_kernel_that_asks_for_many_points_fills_a_larger_batch():
    assert queued(job(1, kernel="local-global"), worker(lane(0))) == pytest.approx(job(1, kernel="local-global").mcmc.ticks * 0.02)


def test_a_batch_holds_no_more_than_the_capacity():
    told = worker(lane(40), chains_stepping=16)
    assert running(job(8), told, done=4 * TICKS) == pytest.approx(TICKS / 2 * 0.02, rel=0.02)


def test_a_job_larger_than_the_capacity_steps_in_parts():
    assert queued(job(32), worker(lane(0), name="one"), worker(lane(0), name="other")) == pytest.approx(2 * TICKS * 0.02)


def test_the_age_of_the_progress_is_subtracted():
    told = worker(lane(3), heartbeat_age_s=0.1, progress_age_s=0.3)
    assert running(job(3), told, done=3 * TICKS // 2) == pytest.approx(TICKS / 2 * 0.01 - 0.4, rel=0.05)


def test_a_queued_job_counts_on_the_fastest_worker_and_a_running_one_on_its_own():
    slow, fast = worker(lane(0), name="slow", slowdown=10.0), worker(lane(0), name="fast")
    assert queued(job(3), slow, fast) == pytest.approx(TICKS * 0.01)
    assert running(job(3), slow, fast) == pytest.approx(10 * TICKS * 0.01, rel=0.05)


def test_jobs_ahead_run_in_full_batches():
    assert queued(job(4), worker(lane(0)), depth=1, backlog=1600) == pytest.approx(800 * 0.02 / 16 + TICKS * 0.01)


def test_a_running_job_without_progress_has_run_since_its_start():
    assert running(job(3), worker(lane(0)), for_s=0.4) == pytest.approx(TICKS * 0.01 - 0.4, abs=0.05)


def test_a_job_inside_a_worker_takes_turns_with_the_others_there():
    full = worker(lane(32), jobs=8, chain_steps_waiting=1600, chain_steps_per_s=1000.0)
    waits_s = [running(job(images), full) - TICKS * 0.02 for images in (1, 2, 4, 8)]
    assert waits_s == pytest.approx([0.4, 0.8, 1.6, 1.6], abs=0.05)
