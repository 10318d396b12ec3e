"""`python -m workers.training` runs queued jobs that get a process each; with `--name` it trains one model here and now, without Redis."""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server

from models import datasets, families
from workers import logs
from workers.assignments import parse_assignments
from workers.queue.broker import Broker
from workers.room import RoomCollector
from workers.settings import WorkerSettings
from workers.training.foreground import train_here
from workers.training.metrics import TrainingCollector
from workers.training.options import describe_options
from workers.training.worker import ForkingWorker


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of both modes."""
    settings = WorkerSettings()
    logs.set_up(settings)
    parser = _parser(settings)
    given = parser.parse_args(arguments)
    try:
        given.options = families.family(given.family, parse_assignments(given.set)).model_dump(mode="json")
    except ValueError as error:
        parser.error(str(error))
    if given.name is not None:
        raise SystemExit(train_here(given, settings))
    serve(settings, burst=given.burst)


def serve(settings: WorkerSettings, *, burst: bool) -> None:
    """Takes jobs until SIGTERM or SIGINT. This process never loads torch, so that the processes it forks may use a GPU."""
    require_device(settings.device)
    if settings.checkpoint_bucket:  # opened by the processes that are forked; this one keeps no connection that they would share
        require("workers.bucket")
    worker = ForkingWorker(Broker.connect_patiently(settings), settings)
    if settings.metrics_port:
        registry = CollectorRegistry()
        registry.register(TrainingCollector(worker))
        registry.register(RoomCollector({"checkpoints": settings.checkpoints, "runs": settings.runs_folder}, counting=True))
        start_http_server(settings.metrics_port, settings.metrics_host, registry=registry)
    worker.work(burst=burst)


def require_device(name: str) -> None:
    """Ends this process with the reason where the device is not here."""
    if name not in ("auto", "cpu"):
        require("models.device", name)


def require(*module_and_arguments: str) -> None:
    """Ends this process with what another one says, where that one fails."""
    asked = subprocess.run([sys.executable, "-m", *module_and_arguments], capture_output=True, text=True)
    if asked.returncode:
        raise SystemExit(asked.stderr.strip())


def dataset_name(given: str) -> str:
    """A name that there is. Raises ArgumentTypeError with the choices."""
    if not datasets.is_name(given):
        raise argparse.ArgumentTypeError(f"unknown dataset {given!r} (choose from {', '.join(datasets.choices())})")
    return given


def _parser(settings: WorkerSettings) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers.training", description=__doc__)
    parser.add_argument("--name", help="train this model in the foreground; without it, serve the queues")
    parser.add_argument("--family", choices=families.names(), default="sngan")
    parser.add_argument("--dataset", type=dataset_name, default="mnist", help=", ".join(datasets.choices()))
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--width", type=int, default=64, help="channels of the widest layers")
    parser.add_argument("--latent-size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=10, help="times the weights are scored; 0 publishes the last ones")
    parser.add_argument("--no-calibrate", dest="calibrate", action="store_false", help="leave samplers that need it uncalibrated")
    parser.add_argument("--promote", action="store_true", help="make the new version the default")
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], help=describe_options().replace("%", "%%"))
    parser.add_argument("--checkpoints", type=Path, default=settings.checkpoints, help="folder to publish into (%(default)s)")
    parser.add_argument("--burst", action="store_true", help="serving: leave when the queues are empty")
    return parser


if __name__ == "__main__":
    main()
