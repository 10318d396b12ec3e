"""The figures of a worker: named as Prometheus wants them, and true."""

import os
import re
import time

import pytest

from tests.workers.generation.fake_engine import DIVERGES, FakeEngine
from workers.generation.metrics import WorkerMetrics
from workers.jobs import Status
from workers.messages import ChainsRetired, EngineTicked, Loaded, Stepped, Warmed
from workers.training.metrics import TrainingCollector
from workers.training.worker import ForkingWorker

UNITS = ("_total", "_seconds", "_ratio", "_bytes", "_info")
COUNTS = {"ebbtide_jobs_running", "ebbtide_chains_free", "ebbtide_chains_capacity", "ebbtide_engine_threads"}  # gauges without a unit


def stepped(chains, bucket, seconds, model="m"):
    return Stepped(model=model, sampler="ddls", chains=chains, bucket=bucket, seconds=seconds)


def test_names_follow_the_conventions():
    for family in WorkerMetrics(64).registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        if name.startswith("process_"):
            continue
        assert re.fullmatch(r"ebbtide_[a-z_]+", name)
        assert name.endswith(UNITS) or name in COUNTS, name
        assert family.documentation


def test_no_label_can_take_a_value_for_every_job():
    allowed = {"model", "sampler", "outcome", "bucket", "fate", "le"}
    metrics = WorkerMetrics(64)
    metrics.record(stepped(3, 4, 0.01))
    metrics.record(ChainsRetired(model="m", sampler="ddls", chains=3, acceptance=0.5, nonfinite=1))
    metrics.record(Loaded(model="m", version=1, seconds=0.2))
    assert {label for family in metrics.registry.collect() for sample in family.samples for label in sample.labels} <= allowed


def test_the_engine_is_observed():
    metrics = WorkerMetrics(8)
    metrics.record(stepped(4, 4, 0.01))
    metrics.record(stepped(8, 8, 0.03))
    metrics.record(ChainsRetired(model="m", sampler="ddls", chains=3, acceptance=0.57, nonfinite=1))
    metrics.record(Loaded(model="m", version=2, seconds=0.2))
    get, labels = metrics.registry.get_sample_value, {"model": "m", "sampler": "ddls"}
    assert get("ebbtide_chain_steps_total", labels) == 12
    assert get("ebbtide_batch_occupancy_ratio_sum") == 1.5
    assert get("ebbtide_step_seconds_sum", {"bucket": "8"}) == 0.03
    assert get("ebbtide_nonfinite_chains_total", labels) == 1
    assert get("ebbtide_acceptance_ratio_bucket", labels | {"le": "0.6"}) == 1
    assert get("ebbtide_model_load_seconds_count", {"model": "m"}) == 1


def test_series_of_models_that_nobody_samples_leave():
    metrics = WorkerMetrics(8)
    for model in ("old", "new"):
        metrics.record(Warmed(model=model, sampler="ddls", seconds={4: 0.1}, taken={4: 10}))
        metrics.record(stepped(4, 4, 0.01, model))
        metrics.record(Loaded(model=model, version=1, seconds=0.2))
        metrics.record(ChainsRetired(model=model, sampler="ddls", chains=3, acceptance=0.5, nonfinite=0))
        if model == "old":
            metrics.ended(None, Status.FAILED, 0.0)
            metrics.forget(unused_s=3600)
            before = time.monotonic()
    assert "old" in models_of(metrics)
    metrics.forget(unused_s=time.monotonic() - before)
    assert models_of(metrics) == {"new"}
    metrics.record(ChainsRetired(model="old", sampler="ddls", chains=3, acceptance=0.5, nonfinite=0))
    assert metrics.registry.get_sample_value("ebbtide_chains_total", {"model": "old", "sampler": "ddls"}) == 3


def models_of(metrics):
    return {sample.labels["model"] for family in metrics.registry.collect() for sample in family.samples if "model" in sample.labels}


def tick(metrics, *lanes, seconds):
    """One in which lanes step, each with its (chains, bucket)."""
    for chains, bucket in lanes:
        metrics.record(stepped(chains, bucket, seconds / 10))
    metrics.record(EngineTicked(seconds=seconds))


def test_speed_is_that_of_the_time_ticks_take():
    metrics = WorkerMetrics(8)
    assert metrics.ratios["chain_steps_per_s"].lately() == 0
    tick(metrics, (8, 8), seconds=0.5)
    tick(metrics, (4, 4), seconds=0.5)
    assert metrics.ratios["chain_steps_per_s"].lately() == pytest.approx(12)
    assert metrics.ratios["chain_steps_per_s"].lately() == pytest.approx(12)  # nothing new: as of late
    tick(metrics, (8, 8), seconds=0.1)
    assert metrics.ratios["chain_steps_per_s"].lately() == pytest.approx(80)


def test_slowdown_is_what_ticks_take_over_what_the_table_says_of_their_steps():
    metrics = WorkerMetrics(8)
    metrics.record(Warmed(model="m", sampler="ddls", seconds={4: 0.01, 8: 0.02}, taken={4: 0, 8: 0}))
    assert metrics.ratios["slowdown"].lately() == 0
    tick(metrics, (3, 4), (8, 8), seconds=0.06)
    assert metrics.ratios["slowdown"].lately() == pytest.approx(2)
    tick(metrics, (9, 12), seconds=0.1)  # more than one call: the table has no such size
    assert metrics.ratios["slowdown"].lately() == pytest.approx(10)  # its step took a tenth of the tick


def test_a_worker_tells_its_tables_and_what_its_jobs_ask_of_each(broker, start_worker, eventually, generate_job):
    metrics = start_worker(FakeEngine(tick_s=0.01))._metrics
    eventually(lambda: [worker.lanes for worker in broker.workers()] == [()])
    metrics.record(Warmed(model="toy", sampler="ddls", seconds={4: 0.001, 64: 0.004}, taken={4: 100, 64: 1600}))
    metrics.record(Warmed(model="toy", sampler="latent-ebm", seconds={4: 0.002}, taken={4: 0}))
    metrics.record(stepped(4, 4, 0.002, model="toy"))
    metrics.record(EngineTicked(seconds=0.003))
    long = {"steps": 10_000}
    jobs = [generate_job(num_images=3, mcmc=long | {"kernel": kernel}) for kernel in ("mala", "local-global")]
    ids = broker.submit_many([*jobs, generate_job(sampler="prior", mcmc=None)])
    expected = [("ddls", 33, {4: 0.001, 64: 0.004}), ("latent-ebm", 0, {4: 0.002})]
    eventually(lambda: [(lane.sampler, lane.points, lane.step_seconds) for lane in broker.workers()[0].lanes] == expected)
    eventually(lambda: broker.workers()[0].slowdown == pytest.approx(3))
    for job_id in ids:
        broker.cancel(job_id)


def test_the_memory_of_the_engines_process_is_exported():
    metrics = WorkerMetrics(8)
    metrics.watch_process("engine", os.getpid())
    assert metrics.registry.get_sample_value("ebbtide_engine_process_resident_memory_bytes") > 1e6


def test_what_a_batch_takes_is_exported():
    metrics = WorkerMetrics(8)
    metrics.record(Warmed(model="m", sampler="ddls", seconds={4: 0.01}, taken={4: 1000}))
    get, labels = metrics.registry.get_sample_value, {"model": "m", "sampler": "ddls", "bucket": "4"}
    assert (get("ebbtide_bucket_step_seconds", labels), get("ebbtide_bucket_memory_bytes", labels)) == (0.01, 1000)


def test_a_worker_says_how_many_chains_it_can_run_as_things_are(broker, start_worker, eventually):
    engine = FakeEngine(capacity=64)
    get = start_worker(engine)._metrics.registry.get_sample_value
    eventually(lambda: [worker.capacity for worker in broker.workers()] == [64])
    engine.capacity = 16
    eventually(lambda: [worker.capacity for worker in broker.workers()] == [16])
    assert get("ebbtide_chains_capacity") == 16


def test_jobs_are_counted_by_how_they_ended(broker, start_worker, eventually, generate_job):
    jobs = [generate_job(), generate_job(seed=DIVERGES), generate_job(deadline_s=0.001), generate_job(sampler="prior", mcmc=None)]
    ids = broker.submit_many(jobs)
    get = start_worker(FakeEngine())._metrics.registry.get_sample_value
    eventually(lambda: all(broker.view(job_id).status.over for job_id in ids))
    ddls, prior = ({"model": "toy", "sampler": sampler} for sampler in ("ddls", "prior"))
    for outcome in ("finished", "failed", "expired"):
        eventually(lambda outcome=outcome: get("ebbtide_jobs_total", ddls | {"outcome": outcome}) == 1)
    eventually(lambda: get("ebbtide_jobs_total", prior | {"outcome": "finished"}) == 1)
    assert get("ebbtide_images_total", ddls) == 4
    assert get("ebbtide_job_latency_seconds_count", ddls) == 3
    assert get("ebbtide_job_queue_seconds_count", ddls) == get("ebbtide_job_encoding_seconds_count", ddls) == 1
    eventually(lambda: get("ebbtide_jobs_running") == 0)


def test_a_trainer_exports_what_the_run_under_way_last_told(broker, settings, train_job):
    from prometheus_client import CollectorRegistry

    trainer = ForkingWorker(broker, settings)
    registry = CollectorRegistry()
    registry.register(TrainingCollector(trainer))
    assert registry.get_sample_value("ebbtide_training_jobs_total") == 0
    assert registry.get_sample_value("ebbtide_training_step", {"model": "toy"}) is None
    trainer.running = broker.submit(train_job)
    for step, loss in ((20, 1.5), (40, 0.5)):
        broker.publish(trainer.running, "metrics", {"step": step, "loss": loss})
    assert registry.get_sample_value("ebbtide_training_step", {"model": "toy"}) == 40
    assert registry.get_sample_value("ebbtide_training_metric", {"model": "toy", "metric": "loss"}) == 0.5
