"""How a process that computes begins: on the device and with the threads of its settings."""

import os
from typing import TYPE_CHECKING

from workers.settings import WorkerSettings

if TYPE_CHECKING:
    import torch


def begin(settings: WorkerSettings) -> "torch.device":
    """Loads torch, sets this process up and returns its device. A device that is not here ends the process with the reason.

    Processes that `torchrun` started share the threads, and have a GPU each.
    """
    process, processes = (int(os.environ.get(name, default)) for name, default in (("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")))
    threads = max(1, settings.threads // processes)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # torch reads it when it is first imported
    from models import device

    try:
        found = device.resolve(settings.device, process)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    device.settle(found, threads)
    return found
