"""Every figure a training worker exports."""

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from workers.queue.connection import BrokerUnavailable
from workers.training.worker import ForkingWorker


class TrainingCollector(Collector):
    """Figures of the worker, and the last ones its running job published: that is another process, so each scrape reads them from Redis."""

    def __init__(self, worker: ForkingWorker) -> None:
        self._worker = worker

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("ebbtide_redis_errors", "Signs of life that Redis did not take", self._worker.redis_errors)
        yield CounterMetricFamily("ebbtide_training_jobs", "Jobs that ran to an end here", self._worker.jobs_ended)
        age = GaugeMetricFamily("ebbtide_loop_age_seconds", "Since a thread last began a turn", labels=["thread"])
        age.add_metric(["training"], time.monotonic() - self._worker.turned_at)
        yield age
        step = GaugeMetricFamily("ebbtide_training_step", "Steps made by the job under way", labels=["model"])
        metric = GaugeMetricFamily("ebbtide_training_metric", "Last figures published by the job under way", labels=["model", "metric"])
        for model, values in self._published():
            step.add_metric([model], float(values.pop("step")))
            for name, value in values.items():
                metric.add_metric([model, name], float(value))
        yield from (step, metric)

    def _published(self) -> Iterator[tuple[str, dict[str, Any]]]:
        job_id = self._worker.running
        if job_id is None:
            return
        try:
            published = [event.data for event in self._worker.broker.events(job_id) if event.name == "metrics"]
            if published:
                last = {name: value for data in published for name, value in data.items()}  # not every event has every figure
                yield self._worker.broker.view(job_id).job.model_name, last
        except BrokerUnavailable:
            return  # a scrape without figures says it all
