"""What a generation worker says of its jobs beside its metrics: lines of its log, and spans."""

import logging
from collections.abc import Mapping, Sequence

from workers.jobs import Problem
from workers.leases.leases import Ended, Taken
from workers.tracing import Tracing

_logger = logging.getLogger(__name__)
LOST = Problem(reason="abandoned", detail="the lease ran out")


class JobReports:
    """Log lines and, where there is tracing, spans of the jobs of one worker."""

    def __init__(self, tracing: Tracing | None) -> None:
        self._tracing = tracing

    def ticked(self, running: Mapping[str, Taken], seconds: float) -> None:
        """The engine has made a tick for these jobs, by execution."""
        if self._tracing is None:
            return
        for label in self._tracing.labels - running.keys():
            self._tracing.end(label, LOST)
        for job in running.values():
            self._begin(self._tracing, job)
        self._tracing.tick(seconds)

    def ended(self, ended: Sequence[Ended]) -> None:
        """Jobs have ended, each with its outcome in Redis."""
        for one in ended:
            self._log(one)
            if self._tracing is not None:
                self._begin(self._tracing, one.taken)
                if isinstance(one.outcome, Problem):
                    self._tracing.end(one.taken.execution_id, one.outcome)
                else:
                    self._tracing.end(one.taken.execution_id, None, one.outcome.timings.model_dump())

    def close(self) -> None:
        """Sends the spans that are left."""
        if self._tracing is not None:
            self._tracing.close()

    def _begin(self, tracing: Tracing, job: Taken) -> None:
        if job.request is not None and job.execution_id not in tracing.labels:
            tracing.begin(job.execution_id, job.id, job.request, job.started_at)

    def _log(self, one: Ended) -> None:
        """A failure is worth a line; thousands of others a second are not, unless asked for."""
        failed = isinstance(one.outcome, Problem) and one.outcome.reason not in ("canceled", "expired")
        level = logging.WARNING if failed else logging.DEBUG
        if not _logger.isEnabledFor(level):
            return
        about = {"job": one.taken.id, "outcome": one.status.value}
        if (request := one.taken.request) is not None:
            about |= {"model": request.model, "sampler": request.sampler}
        if isinstance(one.outcome, Problem):
            about["reason"] = one.outcome.reason
            _logger.log(level, "job %s: %s: %s", one.taken.id, one.outcome.reason, one.outcome.detail, extra=about)
        else:
            _logger.log(level, "job %s: finished", one.taken.id, extra=about)
