"""Every figure a generation worker exports: names, labels and buckets here and nowhere else."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase

from workers.jobs import GenerateJob, Status, Timings
from workers.messages import ChainsRetired, EngineTicked, Loaded, Measurement, Stepped, Warmed

MODEL = ("model", "sampler")
_logger = logging.getLogger("rq.worker")
# `prior` takes milliseconds, long chains under load take minutes.
LATENCY_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640, 900)
STEP_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
RATIO_BUCKETS = tuple(step / 10 for step in range(1, 11))
FORGET_S = 6 * 3600.0  # without a request, after which a model's series are dropped
LOAD_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Ratio:
    """A running sum over another, for the time since it was last asked."""

    def __init__(self) -> None:
        self._total = self._seen = (0.0, 0.0)
        self._lately = 0.0

    def add(self, above: float, below: float) -> None:
        self._total = (self._total[0] + above, self._total[1] + below)

    def lately(self) -> float:
        """The ratio of what was added since the last call; the last answer where nothing was added, and 0 at first."""
        (above, below), (above_seen, below_seen) = self._total, self._seen
        if below > below_seen:
            self._seen, self._lately = (above, below), (above - above_seen) / (below - below_seen)
        return self._lately


class WorkerMetrics:
    """The figures of one worker and its engine."""

    def __init__(self, capacity: int) -> None:
        self.registry = CollectorRegistry()
        self._pace, self._slowdown = Ratio(), Ratio()
        self.ratios = {
            "chain_steps_per_s": self._pace,
            "slowdown": self._slowdown,
        }  # the slowdown: seconds of ticks over those of their table
        self.tables: dict[tuple[str, str], Mapping[int, float]] = {}  # (model, sampler): seconds of a step by batch size
        self._capacity = capacity
        # labels() for each job would take 11 µs, 8 % of the worker's time for a job that samples nothing.
        self._series: dict[tuple[str, str], tuple[Any, ...]] = {}
        self._used: dict[tuple[str, str], float] = {}  # when a model's sampler was last sampled, by time.monotonic()
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
        about = "One evaluation in a batch of this size when the checkpoint was loaded; sizes that give other bits are not used"
        self._buckets = Gauge("ebbtide_bucket_step_seconds", about, [*MODEL, "bucket"], registry=self.registry)
        about = "Peak memory of that evaluation; 0 where the platform does not report it"
        self._memory = Gauge("ebbtide_bucket_memory_bytes", about, [*MODEL, "bucket"], registry=self.registry)
        self.running = Gauge("ebbtide_jobs_running", "Jobs started and not ended", registry=self.registry)
        self._ages = Gauge("ebbtide_loop_age_seconds", "Since a thread last began a turn", ["thread"], registry=self.registry)
        self.free = Gauge("ebbtide_chains_free", "Chains that could still be admitted", registry=self.registry)
        self.capacity = Gauge("ebbtide_chains_capacity", "Chains the worker can run at once", registry=self.registry)
        self.capacity.set(capacity)
        self._threads = Gauge("ebbtide_engine_threads", "Threads the engine computes with", registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, thread: str, turned_at: Callable[[], float]) -> None:
        """Exports the age of a loop's last turn, `turned_at` in time.monotonic(); a stuck loop does not stop scrapes."""
        self._ages.labels(thread).set_function(lambda: time.monotonic() - turned_at())

    def watch_threads(self, threads: Callable[[], int]) -> None:
        """Exports the threads the engine computes with, asked at each scrape."""
        self._threads.set_function(threads)

    def watch_process(self, name: str, pid: int) -> None:
        """Exports memory and processor time of another process."""
        ProcessCollector(namespace=f"ebbtide_{name}", pid=lambda: pid, registry=self.registry)

    def ended(self, job: GenerateJob | None, outcome: Status, created_at: float, timings: Timings | None = None) -> None:
        """Counts a job that is over; `job` is None where the request could not be read."""
        labels = (job.model, job.sampler) if job else ("unknown", "unknown")
        if (series := self._series.get(labels)) is None:
            of_jobs = (self._latency, self._images, self._queue, self._sampling, self._encoding)
            series = self._series[labels] = tuple(metric.labels(*labels) for metric in of_jobs)
        self._used[labels] = time.monotonic()
        latency, images, queue, sampling, encoding = series
        self._jobs.labels(*labels, outcome.value).inc()
        latency.observe(max(0.0, time.time() - created_at))
        if job is None or timings is None:
            return
        images.inc(job.num_images)
        queue.observe(timings.queue_s)
        sampling.observe(timings.sampling_s)
        encoding.observe(timings.encoding_s)

    def forget(self, unused_s: float = FORGET_S) -> None:
        """Drops the series of models without a request for so many seconds."""
        before = time.monotonic() - unused_s
        for labels in [labels for labels, used in self._used.items() if used < before]:
            del self._used[labels]
            self._series.pop(labels, None)
            for metric in self._by_model():
                metric.remove_by_labels(dict(zip(MODEL, labels, strict=True)))
            if all(model != labels[0] for model, _ in self._used):
                self._load.remove_by_labels({"model": labels[0]})

    def _by_model(self) -> Iterator[MetricWrapperBase]:
        yield from (self._jobs, self._images, self._chain_steps, self._chains, self._nonfinite, self._latency, self._queue)
        yield from (self._sampling, self._encoding, self._acceptance, self._buckets, self._memory)

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
                self._used[model, sampler] = time.monotonic()
                self._chains.labels(model, sampler).inc(measurement.chains)
                self._nonfinite.labels(model, sampler).inc(measurement.nonfinite)
                if measurement.acceptance is not None:
                    self._acceptance.labels(model, sampler).observe(measurement.acceptance)

    def _stepped(self, event: Stepped) -> None:
        self._pace.add(event.chains, 0)
        self._slowdown.add(0, self.tables.get((event.model, event.sampler), {}).get(event.bucket, event.seconds))
        self._chain_steps.labels(event.model, event.sampler).inc(event.chains)
        self._step.labels(event.bucket).observe(event.seconds)
        self._occupancy.observe(event.chains / self._capacity)

    def _warmed(self, event: Warmed) -> None:
        self.tables[event.model, event.sampler] = event.seconds
        for size in event.seconds:
            self._buckets.labels(event.model, event.sampler, size).set(event.seconds[size])
            self._memory.labels(event.model, event.sampler, size).set(event.taken[size])
        table = ", ".join(f"{size}: {event.seconds[size] * 1000:.2f} ms, {event.taken[size] / 1e6:.1f} MB" for size in event.seconds)
        _logger.info("%s, %s: batch sizes that agree bitwise, time and memory of a step: %s", event.model, event.sampler, table)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(name, about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, about, labels, buckets=buckets, registry=self.registry)
