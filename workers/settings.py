"""The settings of a worker process: environment variables `EBBTIDE_*`, read once in `main()` and passed on."""

import os
import socket
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


def cores() -> int:
    """CPU cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerSettings(BaseSettings):
    """Every setting of the processes that take jobs; the API reads the first block too."""

    model_config = SettingsConfigDict(env_prefix="EBBTIDE_", frozen=True, extra="ignore")

    redis_url: str = Field("redis://localhost:6379/0", description="queue, job states and, by default, images")
    artifacts: str = Field("", description="where images go: empty for Redis, otherwise any fsspec URL or folder")
    result_ttl_s: int = Field(3600, ge=1, description="seconds a finished job, its events and its images are kept")
    failure_ttl_s: int = Field(7 * 86400, ge=1, description="seconds a failed job is kept")
    job_timeout_s: int = Field(3600, ge=1, description="seconds a generation may run")

    data: Path = Field(Path("data"), description="folder of everything a process keeps on disk")
    checkpoints: Path = Field(
        default_factory=lambda given: given["data"] / "checkpoints", description="where versions are published; <data>/checkpoints if unset"
    )
    checkpoint_bucket: str = Field("", description="fsspec URL where versions are published; then the folder is this machine's copy")

    datasets: Path = Field(
        default_factory=lambda given: given["data"] / "datasets", description="where users put data to train on; <data>/datasets if unset"
    )

    tensorboard: str = Field("", description="folder for TensorBoard files of training runs; empty for none")

    device: str = Field("auto", description="what to compute on: auto (the first GPU, or else the CPU), cpu, cuda, cuda:1, ..., mps")
    threads: int = Field(default_factory=cores, ge=1, description="threads torch computes with; all cores if unset")
    threads_beside_training: int = Field(
        default_factory=lambda given: max(1, given["threads"] - max(1, given["threads"] // 4)),
        ge=1,
        description="threads a generation worker computes with while a process with the same data folder trains; three quarters if unset",
    )
    capacity: int = Field(64, ge=1, le=4096, description="chains that run at once")
    checkpoint_bytes: int = Field(1 << 30, ge=0, description="bytes of weights kept in memory; the checkpoint longest unused leaves")
    encoders: int = Field(2, ge=1, le=64, description="threads that make PNGs beside the stepping one")
    log_format: Literal["text", "json"] = Field("text", description="of this process's log: text, or json for one object a line")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what this process logs at least")
    metrics_host: str = Field("0.0.0.0", description="address of this process's Prometheus page")
    metrics_port: int = Field(0, ge=0, le=65535, description="port of this process's Prometheus page; 0 for none")

    heartbeat_s: float = Field(1.0, gt=0, le=60, description="seconds between signs of life, each for all running jobs")
    lease_s: int = Field(5, ge=1, description="seconds after the last sign of life at which a job counts as abandoned")
    maintenance_s: float = Field(2.0, gt=0, description="seconds between looks for abandoned jobs, by any one live worker")

    @property
    def runs_folder(self) -> Path:
        """Holds the state of unfinished training, one folder a job."""
        return self.data / "runs"

    @property
    def training_lock(self) -> Path:
        """Locked while a process of this machine trains; machines that share a data folder have one file each."""
        return self.data / f"training.{socket.gethostname()}.lock"
