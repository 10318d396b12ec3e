"""Many images into a folder, as jobs of 256 at most: what is there already is not made again, so a run that was stopped goes on.

`manifest.json` says what the folder holds. Part k of the work has the seed of the manifest plus k, and its images are numbered on.
"""

import contextlib
import io
import json
import os
import secrets
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from service.client import Client, ClientError, Refused, Unreachable
from service.command.output import Canceled, err, failure, told
from workers.jobs import MAX_IMAGES, Status

AT_ONCE = 8  # jobs under way, so that several workers are busy
AGAIN_S = 2.0  # before a job is sent again that was refused because the server is busy, or that did not reach it
PATIENCE_S = 600.0  # after which it is given up
SEEDS = 2**63
MANIFEST = "manifest.json"


class Manifest(BaseModel):
    """What a folder holds, or will."""

    model: str  # name@version
    digest: str
    settings: dict[str, Any]  # of POST /generate
    seed: int
    images: int
    of_each: int = MAX_IMAGES  # images of a part; the last one may have fewer
    shards: bool = False

    @property
    def parts(self) -> range:
        return range(-(-self.images // self.of_each))

    def numbers(self, part: int) -> range:
        """The images of a part, counted through the folder."""
        return range(part * self.of_each, min((part + 1) * self.of_each, self.images))

    def files(self, part: int) -> list[str]:
        """The files of a part: a PNG for each image, or a tar file with a PNG and its settings for each."""
        return [f"{part:06}.tar"] if self.shards else [f"{number:08}.png" for number in self.numbers(part)]

    def seed_of(self, part: int) -> int:
        return (self.seed + part) % SEEDS


def fill(client: Client, folder: Path, model: str, images: int, settings: dict[str, Any], *, shards: bool, as_json: bool = False) -> None:
    """Fills a folder, shows how far it is, and prints what it holds then.

    Raises ClientError; after Ctrl-C Canceled, and the same command goes on later.
    """
    manifest = begun(client, folder, model, images, settings, shards=shards)
    columns = (
        TextColumn("{task.completed}/{task.total} images"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
    )
    try:
        with Bar(*columns, console=err, transient=True) as bar:
            task = bar.add_task("", total=images)
            Many(client, folder, manifest, lambda there: bar.update(task, completed=there)).run()
    except KeyboardInterrupt:
        raise Canceled(f"stopped; the same command goes on in {folder}") from None
    told(manifest, f"{folder}: {images} x {manifest.model}, seed {manifest.seed}", as_json)


def begun(client: Client, folder: Path, model: str, images: int, settings: dict[str, Any], *, shards: bool) -> Manifest:
    """The manifest of a folder, which is written where there is none. Raises ClientError where the folder holds something else."""
    if images < 1:
        raise ClientError(f"--images: must be at least 1, not {images}")
    given = {name: value for name, value in settings.items() if name != "seed"}
    path = folder / MANIFEST
    if not path.exists():
        if folder.exists() and any(folder.iterdir()):
            raise ClientError(f"--output: {folder} is not empty and has no {MANIFEST}")
        card = client.model(model)
        seed = settings.get("seed")
        wanted = Manifest(
            model=f"{card.name}@{card.version}",
            digest=card.digest,
            settings=given,
            seed=secrets.randbelow(SEEDS) if seed is None else seed,
            images=images,
            shards=shards,
        )
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, wanted.model_dump_json(indent=2).encode())
        return wanted
    there = Manifest.model_validate_json(path.read_bytes())
    card = client.model(there.model)
    begun_with = there.model if "@" in model else there.model.partition("@")[0]
    asked: dict[str, Any] = {"model": model, "settings": given, "images": images, "shards": shards}
    found: dict[str, Any] = {"model": begun_with, "settings": there.settings, "images": there.images, "shards": there.shards}
    if "seed" in settings:
        asked["seed"], found["seed"] = settings["seed"], there.seed
    for field, value in asked.items():
        if value != found[field]:
            raise ClientError(f"--output: {folder} was begun with {field} {found[field]!r}, not {value!r}; choose another folder")
    if card.digest != there.digest:
        raise ClientError(f"--output: {folder} was begun with other weights of {there.model}; choose another folder")
    return there


class Many:
    """A run that fills a folder; `tell` is called with the number of images that are there."""

    def __init__(self, client: Client, folder: Path, manifest: Manifest, tell: Callable[[int], None]) -> None:
        self._client, self._folder, self._manifest, self._tell = client, folder, manifest, tell
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._jobs: set[str] = set()
        self._there = 0
        self._run = secrets.token_hex(8)

    def run(self) -> None:
        """Makes what is missing. Raises ClientError of the first job that fails; its other jobs are canceled then, as by Ctrl-C."""
        missing = [part for part in self._manifest.parts if not self._is_there(part)]
        self._count(sum(len(self._manifest.numbers(part)) for part in set(self._manifest.parts) - set(missing)))
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="part") as pool:
            futures = [pool.submit(self._make, part) for part in missing]
            try:
                wait(futures, return_when=FIRST_EXCEPTION)
                for future in futures:
                    if future.done():
                        future.result()
            finally:
                self._stopped.set()
                for future in futures:
                    future.cancel()
                self._cancel()

    def _is_there(self, part: int) -> bool:
        return all((self._folder / name).exists() for name in self._manifest.files(part))

    def _make(self, part: int) -> None:
        """Makes a part; does nothing more once the run is stopped. Raises ClientError."""
        until = time.monotonic() + PATIENCE_S
        while not self._stopped.is_set():
            try:
                return self._try(part)
            except (Unreachable, Refused) as error:
                passing = isinstance(error, Unreachable) or error.problem.status in (429, 503)
                if not passing or time.monotonic() > until:
                    raise
            self._stopped.wait(AGAIN_S)
        return None

    def _try(self, part: int) -> None:
        job = self._client.wait(self._submitted(part))
        if job.status is not Status.FINISHED:
            raise ClientError(failure(job))
        pictures = [picture.png for picture in self._client.pictures(job)]
        with self._lock:
            self._jobs.discard(job.id)
        self._store(part, pictures)
        self._count(len(pictures))
        with contextlib.suppress(ClientError):  # they expire by themselves
            self._client.discard(job.id)

    def _submitted(self, part: int) -> str:
        """The part's job, which is the same one if the request has to be sent again."""
        manifest = self._manifest
        job = self._client.submit(
            manifest.model,
            **manifest.settings,
            num_images=len(manifest.numbers(part)),
            seed=manifest.seed_of(part),
            layout="images",
            idempotency_key=f"{self._run}-{part}",
        )
        with self._lock:
            self._jobs.add(job.id)
        if self._stopped.is_set():
            self._cancel()  # `run` has canceled the others already
        return job.id

    def _store(self, part: int, pictures: list[bytes]) -> None:
        """A part is there once its last file is; each file is whole or not there."""
        names = self._manifest.files(part)
        if self._manifest.shards:
            _write(self._folder / names[0], self._shard(part, pictures))
            return
        for name, png in zip(names, pictures, strict=True):
            _write(self._folder / name, png)

    def _shard(self, part: int, pictures: list[bytes]) -> bytes:
        """A tar file as WebDataset reads it: for each image `NUMBER.png` and `NUMBER.json`."""
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w") as archive:
            for image, (number, png) in enumerate(zip(self._manifest.numbers(part), pictures, strict=True)):
                about = {"model": self._manifest.model, "seed": self._manifest.seed_of(part), "image": image}
                for name, content in ((f"{number:08}.png", png), (f"{number:08}.json", json.dumps(about).encode())):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
        return file.getvalue()

    def _count(self, images: int) -> None:
        with self._lock:
            self._there += images
            self._tell(self._there)

    def _cancel(self) -> None:
        with self._lock:
            jobs, self._jobs = self._jobs, set()
        for job_id in jobs:
            with contextlib.suppress(ClientError):
                self._client.cancel(job_id)


def _write(path: Path, content: bytes) -> None:
    """Writes a file in one rename."""
    draft = path.with_name(f".{path.name}.part")
    draft.write_bytes(content)
    os.replace(draft, path)
