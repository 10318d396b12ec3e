"""Checkpoints in a bucket that many machines share: cards and pictures are copied here as they appear, weights when they are used.

The bucket has the layout of a folder of checkpoints. A version's number is taken by a file that only one publisher can make, its card is
written last, and a deleted version leaves that file, so that its number is not given again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
from pathlib import Path
from typing import Protocol

from models.cards import ModelCard
from models.checkpoints import WEIGHTS, Store, StoreUnavailable, written

CARD, TAKEN = "card.json", "taken"
OF_MODEL = ("default", "owner")  # files that change
VERSION = re.compile(r"([a-z0-9][a-z0-9-]{0,62})/([1-9][0-9]{0,8})/([a-z0-9-]+\.?[a-z0-9]*)")


class Bucket(Protocol):
    """Files by path. Every method raises StoreUnavailable where the bucket does not answer or refuses."""

    def listed(self) -> dict[str, str]:
        """Each path, with a tag that changes with the content."""
        ...

    def get(self, path: str) -> bytes: ...

    def put(self, path: str, content: bytes, *, new: bool = False) -> bool:
        """Writes a file; with `new` only where there is none, and returns whether it did."""
        ...

    def delete(self, path: str) -> None: ...


class SharedStore(Store):
    """A store whose versions are those of a bucket. `root` is this machine's copy, which `refresh` brings up to date.

    Copies have the file `taken`. A folder without it was not copied and is never deleted; raises StoreUnavailable where there is one, since
    other machines would not have that version.
    """

    def __init__(self, root: Path, bucket: Bucket, *shipped: Path) -> None:
        super().__init__(root, *shipped)
        self._bucket, self._tags, self._refreshing = bucket, dict[str, str](), threading.Lock()
        for card in sorted(root.glob(f"*/[0-9]*/{CARD}")):
            if not (card.parent / TAKEN).exists():
                raise StoreUnavailable(
                    f"{card.parent} was not copied from the bucket; move it away, or set EBBTIDE_CHECKPOINTS to another folder"
                )

    def refresh(self) -> None:
        """Copies what is new, and deletes copies of what is gone. Raises StoreUnavailable, or OSError where the disk is full."""
        with self._refreshing:
            there = self._bucket.listed()
            folders: dict[tuple[str, int], list[str]] = {}
            for match in filter(None, map(VERSION.fullmatch, there)):
                folders.setdefault((match[1], int(match[2])), []).append(match[3])
            for (name, version), files in folders.items():
                if CARD in files and version not in self._listed(f"{self.root}/{name}").folders:
                    self._copy(name, version, files)
            for home in self.root.glob("*"):
                for version in self._listed(str(home)).folders:
                    if CARD not in folders.get((home.name, version), ()):
                        self._forget(home.name, version)
            for path, tag in there.items():
                if path.partition("/")[2] in OF_MODEL and self._tags.get(path) != tag:
                    self._put(*path.split("/"), self._bucket.get(path).decode())  # type: ignore[call-arg]
                    self._tags[path] = tag

    def promote(self, name: str, version: int) -> None:
        self.refresh()
        self._folder(name, version)
        self._bucket.put(f"{name}/default", str(version).encode())
        super().promote(name, version)

    def delete(self, name: str, version: int) -> None:
        self.refresh()
        self.require_deletable(name, version)
        self._bucket.delete(f"{name}/{version}/{CARD}")
        for path in self._bucket.listed():
            if path.startswith(f"{name}/{version}/") and not path.endswith(f"/{TAKEN}"):
                self._bucket.delete(path)
        self.refresh()

    def claim(self, name: str, owner: str) -> str:
        if not self._bucket.put(f"{name}/owner", owner.encode(), new=True):
            owner = self._bucket.get(f"{name}/owner").decode()
        self._put(name, "owner", owner)
        return owner

    def release(self, name: str) -> None:
        if not self._folders(name):
            self._bucket.delete(f"{name}/owner")
        super().release(name)

    def weights_file(self, card: ModelCard) -> Path:
        path = super().weights_file(card)
        if not path.exists():
            content = self._bucket.get(f"{card.name}/{card.version}/{WEIGHTS}")
            handle, draft = tempfile.mkstemp(prefix=".weights-", dir=path.parent)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.rename(draft, path)
        return path

    def _place(self, card: ModelCard, draft: Path) -> ModelCard:
        self.refresh()
        taken = {int(match[2]) for match in filter(None, map(VERSION.fullmatch, self._bucket.listed())) if match[1] == card.name}
        version = max(taken | {*self.versions(card.name)}, default=0) + 1
        while not self._bucket.put(f"{card.name}/{version}/{TAKEN}", b"", new=True):
            version += 1
        self._keep_default(card.name)
        numbered = card.model_copy(update={"version": version})
        for path in draft.iterdir():
            self._bucket.put(f"{card.name}/{version}/{path.name}", path.read_bytes())
        content = written(numbered)
        self._bucket.put(f"{card.name}/{version}/{CARD}", content)
        (draft / CARD).write_bytes(content)
        (draft / TAKEN).touch()
        _settle(draft, self.root / card.name / str(version))
        return numbered

    def _copy(self, name: str, version: int, files: list[str]) -> None:
        """A version without its weights, in one rename."""
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".copy-", dir=home))
        try:
            draft.chmod(0o755)
            (draft / TAKEN).touch()
            for file in files:
                if file not in (WEIGHTS, TAKEN):
                    (draft / file).write_bytes(self._bucket.get(f"{name}/{version}/{file}"))
            _settle(draft, home / str(version))
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _forget(self, name: str, version: int) -> None:
        """Deletes this machine's copy of a version that is gone."""
        folder = self.root / name / str(version)
        self._read.pop(folder, None)
        (folder / CARD).unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)


def _settle(draft: Path, place: Path) -> None:
    """Puts a copy of a version in its place, unless another thread or process was first."""
    try:
        draft.rename(place)
    except OSError:
        if not place.exists():
            raise
        shutil.rmtree(draft, ignore_errors=True)
