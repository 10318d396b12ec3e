"""Stores the files of jobs: in Redis by default, with a time to live, or at any fsspec URL. All files of a job are stored, or none."""

import contextlib
import re
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
from redis import Redis
from redis.exceptions import ResponseError

from workers.queue import keys
from workers.queue.connection import BrokerError, guarded

_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_EXPIRES = ".expires"  # a file in a job's folder: Unix seconds at which the job's files expire; no artifact can have this name
LEAST_FREE = 64 << 20  # bytes that a disk must have left to be counted as having room
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}\.[a-z0-9]{1,8}")


class ArtifactError(BrokerError):
    """The store refused a file (full, read-only, unreachable), or the name is no valid file name."""


class Artifacts(ABC):
    """Files by job and name."""

    in_redis = False  # whether the script that ends a job stores its files too
    folder: Path | None = None  # on a disk of this machine, where files are there

    @staticmethod
    def open(url: str, redis: Redis) -> "Artifacts":
        """The store at `url`; an empty one means Redis."""
        return FileArtifacts(url) if url else RedisArtifacts(redis)

    def put(self, job_id: str, name: str, data: bytes, ttl_s: int) -> None:
        """Stores one file. Raises ArtifactError, and leaves nothing behind, where the store refuses it."""
        self.put_many(job_id, {name: data}, ttl_s)

    @abstractmethod
    def put_many(self, job_id: str, files: Mapping[str, bytes], ttl_s: int) -> None:
        """Stores all the files or none. Raises ArtifactError."""

    @abstractmethod
    def get(self, job_id: str, name: str) -> bytes | None:
        """The file; None where there is none or it has expired."""

    def get_each(self, wanted: Sequence[tuple[str, str]]) -> list[bytes | None]:
        """The files of (job id, name) pairs, in that order."""
        return [self.get(job_id, name) for job_id, name in wanted]

    def put_each(self, jobs: Mapping[str, Mapping[str, bytes]], ttl_s: int) -> dict[str, ArtifactError]:
        """Stores the files of several jobs; returns the errors of the jobs refused, of which nothing is stored."""
        refused = {}
        for job_id, files in jobs.items():
            try:
                self.put_many(job_id, files, ttl_s)
            except ArtifactError as error:
                refused[job_id] = error
        return refused

    @abstractmethod
    def delete(self, job_id: str, names: Sequence[str]) -> None:
        """Deletes files of a job. Missing ones are no error. Raises ArtifactError."""

    def check(self) -> None:  # noqa: B027 (most stores have nothing to check)
        """Raises ArtifactError where files could not be stored now: no bucket, wrong credentials."""

    def has_room(self) -> bool:
        """Whether there is room for files, as far as this process can see; a store that refuses some says so for itself."""
        return True

    def sweep(self) -> int:
        """Deletes expired files, where the store does not do so itself; returns the number of jobs they belonged to."""
        return 0


class RedisArtifacts(Artifacts):
    """Files as Redis strings with a time to live."""

    in_redis = True

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def put_many(self, job_id: str, files: Mapping[str, bytes], ttl_s: int) -> None:
        entries = {keys.artifact(*_checked(job_id, name)): data for name, data in files.items()}
        self._set(entries, ttl_s)

    def get(self, job_id: str, name: str) -> bytes | None:
        with guarded():
            data: Any = self._redis.get(keys.artifact(*_checked(job_id, name)))
        return bytes(data) if data is not None else None

    def get_each(self, wanted: Sequence[tuple[str, str]]) -> list[bytes | None]:
        with guarded():
            found: Any = self._redis.mget([keys.artifact(*_checked(job_id, name)) for job_id, name in wanted])
        return list(found)

    def delete(self, job_id: str, names: Sequence[str]) -> None:
        if names:
            with guarded():
                self._redis.delete(*(keys.artifact(*_checked(job_id, name)) for name in names))

    def _set(self, entries: Mapping[str, bytes], ttl_s: int) -> None:
        """Raises BrokerUnavailable for a lost connection, ArtifactError where Redis refuses: out of memory, a read-only replica."""
        with guarded(), self._redis.pipeline() as pipe:
            for key, data in entries.items():
                pipe.set(key, data, ex=ttl_s)
            try:
                pipe.execute()
            except ResponseError as error:
                raise ArtifactError(f"Redis takes no images: {error}") from error


class FileArtifacts(Artifacts):
    """Files in one folder a job on any fsspec file system. `sweep` deletes expired ones in a folder; a bucket needs lifecycle rules."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self.folder = Path(self._root) if self._is_folder else None

    def put_many(self, job_id: str, files: Mapping[str, bytes], ttl_s: int) -> None:
        paths = {self._path(job_id, name): data for name, data in files.items()}
        try:
            if self._is_folder:
                self._fs.makedirs(f"{self._root}/{job_id}", exist_ok=True)
                for path, data in paths.items():
                    self._write(path, data)
                self._write(f"{self._root}/{job_id}/{_EXPIRES}", str(time.time() + ttl_s).encode())
            else:
                self._fs.pipe(paths)  # an object store writes them at once
        except Exception as error:  # every file system has its own errors
            for path in paths:
                self._discard(path)
            raise ArtifactError(f"cannot store images under {self._root}: {error}") from error

    def get(self, job_id: str, name: str) -> bytes | None:
        try:
            data: bytes = self._fs.cat_file(self._path(job_id, name))
        except FileNotFoundError:
            return None
        except ArtifactError:
            raise
        except Exception as error:  # every file system has its own errors
            raise ArtifactError(f"cannot read images under {self._root}: {error}") from error
        return data

    def delete(self, job_id: str, names: Sequence[str]) -> None:
        for name in names:
            path = self._path(job_id, name)
            try:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(path)
            except Exception as error:
                raise ArtifactError(f"cannot delete images under {self._root}: {error}") from error

    def check(self) -> None:
        if self._is_folder:
            return
        path = f"{self._root}/.probe-{uuid4().hex}"
        try:
            self._fs.pipe_file(path, b"")
            self._fs.rm_file(path)
        except Exception as error:
            raise ArtifactError(f"images cannot be stored under {self._root} (EBBTIDE_ARTIFACTS): {error}") from error

    def has_room(self) -> bool:
        try:
            return not self._is_folder or shutil.disk_usage(self._root).free >= LEAST_FREE
        except FileNotFoundError:  # nothing was stored yet, or only workers have this folder
            return True

    def sweep(self) -> int:
        if not self._is_folder:
            return 0
        markers = [path for path in self._fs.glob(f"{self._root}/*/{_EXPIRES}") if float(self._fs.cat_file(path)) < time.time()]
        for marker in markers:
            self._fs.rm(marker.rpartition("/")[0], recursive=True)
        return len(markers)

    def _path(self, job_id: str, name: str) -> str:
        return "/".join((self._root, *_checked(job_id, name)))

    def _write(self, path: str, data: bytes) -> None:
        """In a folder, readers see the whole file or none: a finished one is renamed. Object stores publish at the end by themselves."""
        partial = f"{path}.{uuid4().hex}.part"
        try:
            self._fs.pipe_file(partial, data)
            self._fs.mv(partial, path)
        finally:
            self._discard(partial)

    def _discard(self, path: str) -> None:
        with contextlib.suppress(Exception):  # the file may not exist, and the first error is the one to report
            self._fs.rm_file(path)

    @property
    def _is_folder(self) -> bool:
        return "file" in self._fs.protocol


def _checked(job_id: str, name: str) -> tuple[str, str]:
    if not _JOB_ID.fullmatch(job_id):
        raise ArtifactError(f"no job has the id {job_id!r}")
    if not _NAME.fullmatch(name):
        raise ArtifactError(f"no artifact has the name {name!r}: small letters, digits and hyphens with an ending, as in 0.png")
    return job_id, name
