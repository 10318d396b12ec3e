"""Shows the samplers on this machine that a training run is under way: a lock on a file, which the kernel releases however the run ends."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(lock: Path) -> Iterator[None]:
    """Holds the lock; several runs may hold it at once."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


def is_held(lock: Path) -> bool:
    """Whether a run holds the lock. A check by another process at the same instant looks like a run; the next check corrects that."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back when the file closes
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False
