"""Where the checkpoints of a process are: a folder, or a bucket at any fsspec URL of which a folder is this machine's copy.

`python -m workers.bucket` exits with 1 and the reason where they cannot be used, for processes that must not open the bucket themselves.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import fsspec

from models.checkpoints import Store, StoreUnavailable
from models.shared_checkpoints import SharedStore
from workers.settings import WorkerSettings

REFRESH_EVERY_S = 2.0
_logger = logging.getLogger(__name__)


def open_store(settings: WorkerSettings) -> Store:
    """The checkpoints of a process. A bucket is looked at now, and every two seconds from then on. Raises StoreUnavailable."""
    if not settings.checkpoint_bucket:
        return Store(settings.checkpoints)
    store = SharedStore(settings.checkpoints, FilesystemBucket(settings.checkpoint_bucket))
    store.refresh()
    threading.Thread(target=_refresh_forever, args=(store,), name="checkpoints", daemon=True).start()
    return store


def _refresh_forever(store: SharedStore) -> None:
    pause = threading.Event()
    while not pause.wait(REFRESH_EVERY_S):
        try:
            store.refresh()
        except (StoreUnavailable, OSError) as error:  # OSError: the disk of the copy is full
            _logger.warning("going on with the checkpoints that are here: %s", error)


class FilesystemBucket:
    """A bucket as fsspec reads and writes it; credentials come from where its file system looks for them, as the environment."""

    def __init__(self, url: str) -> None:
        self._url = url
        with self._telling():
            self._fs, self._root = fsspec.core.url_to_fs(url)

    def listed(self) -> dict[str, str]:
        """Each path, with a tag that changes with the content."""
        with self._telling():
            self._fs.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._fs.find(self._root, detail=True)
        start = len(self._root.rstrip("/")) + 1
        return {path[start:]: str(about.get("ETag") or about.get("mtime") or about.get("size")) for path, about in found.items()}

    def get(self, path: str) -> bytes:
        with self._telling():
            content: bytes = self._fs.cat_file(f"{self._root}/{path}")
        return content

    def put(self, path: str, content: bytes, *, new: bool = False) -> bool:
        """Writes a file; with `new` only where there is none, and returns whether it did."""
        try:
            with self._telling():
                self._fs.pipe_file(f"{self._root}/{path}", content, mode="create" if new else "overwrite")
        except FileExistsError:
            return False
        return True

    def delete(self, path: str) -> None:
        """A file that is gone already is no error."""
        with self._telling(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(f"{self._root}/{path}")

    @contextlib.contextmanager
    def _telling(self) -> Iterator[None]:
        """Raises StoreUnavailable with the reason for whatever the file system raises."""
        try:
            yield
        except FileExistsError:
            raise
        except Exception as error:  # every file system has its own errors
            raise StoreUnavailable(f"the bucket {self._url} (EBBTIDE_CHECKPOINT_BUCKET) cannot be used: {error}") from error


def main() -> None:
    """Opens the store once."""
    try:
        open_store(WorkerSettings())
    except StoreUnavailable as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
