"""The log of a process: text, or one JSON object a line, with the id of the job that a line is about."""

import json
import logging
import os
import sys
from contextvars import ContextVar
from datetime import UTC, datetime

from workers.settings import WorkerSettings

job: ContextVar[str] = ContextVar("job", default="")  # the id of the job that this thread or task is about
FIELDS = ("job", "model", "sampler", "outcome", "reason")  # what a line may carry beside its message, by `extra`
TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s%(about)s"


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, process, and of FIELDS those that are known."""

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": os.getpid(),
        }
        line |= about(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextLines(logging.Formatter):
    """A line of text, with the job's id at its end."""

    def format(self, record: logging.LogRecord) -> str:
        record.about = "".join(f" {name}={value}" for name, value in about(record).items())
        return super().format(record)


def about(record: logging.LogRecord) -> dict[str, object]:
    """What is known of the job of a line."""
    known = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
    return known if "job" in known or not (current := job.get()) else {"job": current} | known


def is_set(settings: WorkerSettings) -> bool:
    """Whether the log is other than the libraries' own."""
    return settings.log_format == "json" or settings.log_level != "info"


def set_up(settings: WorkerSettings) -> None:
    """Makes this process log as its settings say. Without any, uvicorn and RQ log in their own ways."""
    if not is_set(settings):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if settings.log_format == "json" else TextLines(TEXT))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
