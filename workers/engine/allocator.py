"""Makes the C library keep freed memory for the next tick: new pages cost up to a quarter of a tick.

By default glibc returns the top of its heap to the system whenever a call's tensors are freed. Elsewhere nothing changes.
"""

import ctypes

KEPT = 128 << 20  # bytes of freed memory that are kept: four times what 64 chains of the shipped checkpoints need
LARGEST = 32 << 20  # bytes of a block that is kept at all; glibc accepts no more
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed() -> bool:
    """Keeps up to `KEPT` bytes from now on; False where the platform's allocator has no such setting."""
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    return set_option is not None and bool(set_option(TRIM_THRESHOLD, KEPT)) and bool(set_option(MMAP_THRESHOLD, LARGEST))


def give_back_freed() -> None:
    """Hands all freed memory back to the system, kept or not."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)
