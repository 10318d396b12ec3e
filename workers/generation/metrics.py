"""Every figure a generation worker exports: names, labels and buckets here and nowhere else."""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from workers.jobs import GenerateJob, Status, Timings
from workers.messages import ChainsRetired, EngineTicked, Loaded, Measurement, Stepped, Warmed

MODEL = ("model", "sampler")
_logger = logging.getLogger("rq.worker")
# `prior` takes milliseconds, long chains under load take minutes.
LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)
STEP_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
RATIO_BUCKETS = tuple(step / 10 for step in range(1, 11))
LOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Ratio:
    """A running sum over another, as of late."""

    def __init__(self) -> None:
        self._total = self._seen = (0.0, 0.0)
        self._lately = 0.0

    def add(self, above: float, below: float) -> None:
        self._total = (self._total[0] + above, self._total[1] + below)

    def lately(self) -> float:
        """Of what was added since it was last asked; where nothing was, what it said then, and 0 at first."""
        (above, below), (above_seen, below_seen) = self._total, self._seen
        if below > below_seen:
            self._seen, self._lately = (above, below), (above - above_seen) / (below - below_seen)
        return self._lately


class WorkerMetrics:
    """The figures of one worker and its engine."""

    def __init__(self, capacity: int) -> None:
        self.registry = CollectorRegistry()
        self._pace, self._slowdown = Ratio(), Ratio()
        self.ratios = {"chain_steps_per_s": self._pace, "slowdown": self._slowdown}  # the second: ticks over what tables say of their steps
        self.tables: dict[tuple[str, str], Mapping[int, float]] = {}  # (model, sampler): seconds of a step by batch size
        self._capacity = capacity
        self._series: dict[
            tuple[str, str], tuple[Any, ...]
        ] = {}  # labels() for each job would add 11 µs, 8 % of the worker's time for a job of nothing
        self._jobs = self._counter("ebbtide_jobs_total", "Jobs ended", *MODEL, "outcome")
        self._images = self._counter("ebbtide_images_total", "Images made", *MODEL)
        self._chain_steps = self._counter("ebbtide_chain_steps_total", "Evaluations of one chain", *MODEL)
        self._chains = self._counter("ebbtide_chains_total", "Chains ended", *MODEL)
        self._nonfinite = self._counter("ebbtide_nonfinite_chains_total", "Chains whose energy was not a number", *MODEL)
        self.abandoned = self._counter("ebbtide_abandoned_jobs_total", "Jobs found without a worker", "fate")
        self.redis_errors = self._counter("ebbtide_redis_errors_total", "Times that Redis did not answer this worker")
        self._latency = self._histogram("ebbtide_job_latency_seconds", "From submission to the end", LATENCY_BUCKETS, *MODEL)
        self._queue = self._histogram("ebbtide_job_queue_seconds", "From submission to a worker", LATENCY_BUCKETS, *MODEL)
        self._sampling = self._histogram("ebbtide_job_sampling_seconds", "From a worker to all images", LATENCY_BUCKETS, *MODEL)
        self._encoding = self._histogram("ebbtide_job_encoding_seconds", "From images to PNG", LATENCY_BUCKETS, *MODEL)
        self._step = self._histogram("ebbtide_step_seconds", "One evaluation for all chains of a batch", STEP_BUCKETS, "bucket")
        self._occupancy = self._histogram("ebbtide_batch_occupancy_ratio", "Chains of a batch over the worker's capacity", RATIO_BUCKETS)
        self._acceptance = self._histogram("ebbtide_acceptance_ratio", "Proposals accepted, a job", RATIO_BUCKETS, *MODEL)
        self._load = self._histogram(
            "ebbtide_model_load_seconds", "Loading a checkpoint, without the steps of others in between", LOAD_BUCKETS, "model"
        )
        told = "One evaluation in a batch of this size when the checkpoint was loaded; sizes that give other bits are not used"
        self._buckets = Gauge("ebbtide_bucket_step_seconds", told, [*MODEL, "bucket"], registry=self.registry)
        held = "Memory one evaluation in a batch of this size took at its peak then; 0 where the platform does not tell"
        self._memory = Gauge("ebbtide_bucket_memory_bytes", held, [*MODEL, "bucket"], registry=self.registry)
        self.running = Gauge("ebbtide_jobs_running", "Jobs started and not ended", registry=self.registry)
        self._ages = Gauge("ebbtide_loop_age_seconds", "Since a thread last began a turn", ["thread"], registry=self.registry)
        self.free = Gauge("ebbtide_chains_free", "Chains that could still be admitted", registry=self.registry)
        self.capacity = Gauge("ebbtide_chains_capacity", "Chains the worker can run at once", registry=self.registry)
        self.capacity.set(capacity)
        ProcessCollector(registry=self.registry)

    def watch(self, thread: str, turned_at: Callable[[], float]) -> None:
        """Tells the age of a loop's last turn, given as time.monotonic(): while one is stuck scrapes are still answered."""
        self._ages.labels(thread).set_function(lambda: time.monotonic() - turned_at())

    def watch_process(self, name: str, pid: int) -> None:
        """Tells the memory and the processor time of another process, as it does of this one."""
        ProcessCollector(namespace=f"ebbtide_{name}", pid=lambda: pid, registry=self.registry)

    def ended(self, job: GenerateJob | None, outcome: Status, created_at: float, timings: Timings | None = None) -> None:
        """Counts a job that is over; `job` is None where the request could not be read."""
        labels = (job.model, job.sampler) if job else ("unknown", "unknown")
        if (series := self._series.get(labels)) is None:
            of_jobs = (self._latency, self._images, self._queue, self._sampling, self._encoding)
            series = self._series[labels] = tuple(metric.labels(*labels) for metric in of_jobs)
        latency, images, queue, sampling, encoding = series
        self._jobs.labels(*labels, outcome.value).inc()
        latency.observe(max(0.0, time.time() - created_at))
        if job is None or timings is None:
            return
        images.inc(job.num_images)
        queue.observe(timings.queue_s)
        sampling.observe(timings.sampling_s)
        encoding.observe(timings.encoding_s)

    def record(self, measurement: Measurement) -> None:
        """Counts what an engine measured."""
        match measurement:
            case Stepped():
                self._stepped(measurement)
            case EngineTicked(seconds=seconds):  # what jobs wait for, of which the steps are a part
                self._pace.add(0, seconds)
                self._slowdown.add(seconds, 0)
            case Warmed():
                self._warmed(measurement)
            case Loaded():
                self._load.labels(measurement.model).observe(measurement.seconds)
            case ChainsRetired(model=model, sampler=sampler):
                self._chains.labels(model, sampler).inc(measurement.chains)
                self._nonfinite.labels(model, sampler).inc(measurement.nonfinite)
                if measurement.acceptance is not None:
                    self._acceptance.labels(model, sampler).observe(measurement.acceptance)

    def _stepped(self, told: Stepped) -> None:
        self._pace.add(told.chains, 0)
        self._slowdown.add(0, self.tables.get((told.model, told.sampler), {}).get(told.bucket, told.seconds))
        self._chain_steps.labels(told.model, told.sampler).inc(told.chains)
        self._step.labels(told.bucket).observe(told.seconds)
        self._occupancy.observe(told.chains / self._capacity)

    def _warmed(self, told: Warmed) -> None:
        self.tables[told.model, told.sampler] = told.seconds
        for size in told.seconds:
            self._buckets.labels(told.model, told.sampler, size).set(told.seconds[size])
            self._memory.labels(told.model, told.sampler, size).set(told.taken[size])
        table = ", ".join(f"{size}: {told.seconds[size] * 1000:.2f} ms, {told.taken[size] / 1e6:.1f} MB" for size in told.seconds)
        _logger.info("%s, %s: batch sizes that agree bitwise, and what a step of each takes: %s", told.model, told.sampler, table)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)
