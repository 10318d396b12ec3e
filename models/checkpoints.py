"""Checkpoints on disk, `<root>/<name>/<version>/`: the card is written last, so a card on disk means a complete model.

Of several versions one is the default, which stands where no version is named: `<root>/<name>/default` has its number. It stays what it
is until another is promoted. `<root>/<name>/owner` has the name of the API key that may add to the model.

Errors:

    CheckpointError
    ├── UnknownModel      no such name, or no such version of it
    ├── Kept              a version that may not be deleted
    ├── StoreUnavailable  the bucket does not answer, or refuses
    └── DamagedWeights    the weights are not those the card describes
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from pydantic import ValidationError

from models.cards import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
ZOO = Path(__file__).parent / "zoo"
SETTLED_NS = 1_000_000_000  # two changes closer than a tick of the file system's clock look like one
_logger = logging.getLogger(__name__)


class CheckpointError(Exception):
    """Root of what can be wrong with a checkpoint."""


class UnknownModel(CheckpointError):
    """No such model; `choices` are the names, or the versions of a name that exists."""

    def __init__(self, name: str, choices: tuple[str, ...]) -> None:
        super().__init__(f"unknown model {name!r}; there are: {', '.join(choices) or 'none'}")
        self.name = name
        self.choices = choices


class Kept(CheckpointError):
    """The version may not be deleted: it is the default, or was shipped."""


class StoreUnavailable(CheckpointError):
    """The bucket of checkpoints does not answer, or refuses; the message says why."""


class DamagedWeights(CheckpointError):
    """The file's sha256 is not the card's."""


class Listing(NamedTuple):
    """What stood in a model's folder, and whether a change since would show in the folder's time."""

    changed: int  # st_mtime_ns
    settled: bool
    folders: dict[int, Path]
    default: int | None  # what was promoted


class Store:
    """Every published checkpoint: those under `root`, where new versions go, and those shipped read-only."""

    def __init__(self, root: Path, *shipped: Path) -> None:
        self.root = root
        self._roots = (root, *(shipped or (ZOO,)))
        self._read: dict[Path, ModelCard] = {}  # a published card never changes
        self._listings: dict[str, Listing] = {}  # by folder, as strings: every request reads it

    def refresh(self) -> None:
        """Looks for what other machines have published; a folder shows it by itself."""

    def cards(self) -> list[ModelCard]:
        """The default version of each model, by name; a card that cannot be read is logged and left out."""
        found = []
        for name in self._names():
            try:
                found.append(self.card(name))
            except CheckpointError as error:
                _logger.warning("left out: %s", error)
        return found

    def versions(self, name: str) -> list[int]:
        """Versions of a model, oldest first; empty for an unknown model."""
        return sorted(self._folders(name))

    def card(self, name: str, version: int | None = None) -> ModelCard:
        """The card of a version, the default where none is named. Raises UnknownModel."""
        return self._card(self._folder(name, self.default(name) if version is None else version))

    def default(self, name: str) -> int:
        """The version that was promoted last, else the newest. Raises UnknownModel."""
        folders = self._folders(name)
        if not folders:
            raise UnknownModel(name, tuple(self._names()))
        promoted = self._listed(f"{self.root}/{name}").default
        return promoted if promoted in folders else max(folders)

    def promote(self, name: str, version: int) -> None:
        """Makes a version the default, in one rename. Raises UnknownModel."""
        self._folder(name, version)
        self._put(name, "default", str(version))

    def delete(self, name: str, version: int) -> None:
        """Deletes a version's files; its number is never given again. Raises UnknownModel or Kept."""
        folder = self.require_deletable(name, version)
        (folder / "card.json").unlink()
        os.utime(folder.parent)  # listings are read again
        for path in folder.iterdir():
            path.unlink()

    def require_deletable(self, name: str, version: int) -> Path:
        """The folder of a version that may be deleted. Raises UnknownModel or Kept."""
        folder = self._folder(name, version)
        if version == self.default(name):
            raise Kept(f"{name}@{version} is the default; promote another version first")
        if folder.parent.parent != self.root:
            raise Kept(f"{name}@{version} was shipped with Ebbtide")
        return folder

    def owner(self, name: str) -> str | None:
        """The name of the API key that may add versions; None without one."""
        try:
            return (self.root / name / "owner").read_text() or None
        except FileNotFoundError:
            return None

    def claim(self, name: str, owner: str) -> str:
        """Gives a name that has no owner to one; returns the owner it then has."""
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", prefix=".owner-", dir=home) as file:
            print(owner, end="", file=file, flush=True)
            os.fchmod(file.fileno(), 0o644)
            with contextlib.suppress(FileExistsError):
                os.link(file.name, home / "owner")
        return self.owner(name) or owner

    def release(self, name: str) -> None:
        """Takes back a claim on a name under which nothing was published."""
        if not self._folders(name):
            (self.root / name / "owner").unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something is being published there
                (self.root / name).rmdir()

    def folder(self, card: ModelCard) -> Path:
        """Where a card's files are."""
        return self._folders(card.name)[card.version]

    def weights(self, card: ModelCard) -> dict[str, Tensor]:
        """The weights a card describes, on the CPU. Raises DamagedWeights where their sha256 is not the card's."""
        from safetensors.torch import load

        content = self.weights_file(card).read_bytes()
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise DamagedWeights(f"{card.name}@{card.version}: the sha256 of weights.safetensors is not the card's {card.digest}")
        return load(content)

    def weights_file(self, card: ModelCard) -> Path:
        """The file of the weights, on this machine."""
        return self.folder(card) / WEIGHTS

    def publish(
        self, card: ModelCard, weights: dict[str, Tensor], samples_png: bytes, files: Mapping[str, bytes] = MappingProxyType({})
    ) -> ModelCard:
        """Puts a new version on disk in one rename, with `files` by name; the card returned has its version and digest filled in."""
        from safetensors.torch import save

        content = save({name: tensor.contiguous().cpu() for name, tensor in weights.items()})
        digest = hashlib.sha256(content).hexdigest()
        home = self.root / card.name
        home.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=home))
        try:
            draft.chmod(0o755)
            _write(draft / WEIGHTS, content)
            for name, file in {**files, "samples.png": samples_png}.items():
                _write(draft / name, file)
            return self._place(card.model_copy(update={"digest": digest}), draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _place(self, card: ModelCard, draft: Path) -> ModelCard:
        """Renames a draft to the next free version; another publisher may take that number first."""
        home = self.root / card.name
        while True:
            taken = {*self.versions(card.name), *(int(path.name) for path in home.iterdir() if path.name.isdecimal())}
            version = max(taken, default=0) + 1
            self._keep_default(card.name)
            numbered = card.model_copy(update={"version": version})
            _write(draft / "card.json", written(numbered))
            try:
                draft.rename(home / str(version))
            except OSError:
                if not (home / str(version)).exists():
                    raise
            else:
                return numbered

    def _keep_default(self, name: str) -> None:
        """Before another version appears: what is the default stays it."""
        if self.versions(name) and self._listed(f"{self.root}/{name}").default is None:
            self.promote(name, self.default(name))

    def _names(self) -> list[str]:
        return sorted({card.parent.parent.name for root in self._roots for card in root.glob("*/*/card.json")})

    def _folder(self, name: str, version: int) -> Path:
        folders = self._folders(name)
        if version not in folders:
            known = tuple(f"{name}@{each}" for each in sorted(folders))
            raise UnknownModel(f"{name}@{version}", known or tuple(self._names()))
        return folders[version]

    def _folders(self, name: str) -> dict[int, Path]:
        """Version to folder; a published version hides a shipped one of the same number."""
        return {**self._shipped.get(name, {}), **self._listed(f"{self.root}/{name}").folders}

    @cached_property
    def _shipped(self) -> dict[str, dict[int, Path]]:
        """Versions to folders by model, read once: what was shipped stays as it is."""
        found: dict[str, dict[int, Path]] = {}
        for root in reversed(self._roots[1:]):
            for home in root.glob("*"):
                found[home.name] = found.get(home.name, {}) | _versions(home)
        return found

    def _listed(self, home: str) -> Listing:
        """The versions in one folder, read again only when the folder has changed, since every request needs them."""
        try:
            changed = os.stat(home).st_mtime_ns
        except OSError:
            return Listing(0, True, {}, None)
        known = self._listings.get(home)
        if known is None or known.changed != changed or not known.settled:
            folder, settled = Path(home), time.time_ns() - changed > SETTLED_NS
            known = self._listings[home] = Listing(changed, settled, _versions(folder), _number(folder / "default"))
        return known

    def _put(self, name: str, file: str, content: str) -> None:
        """Writes a file of a model, in one rename."""
        home = self.root / name
        home.mkdir(parents=True, exist_ok=True)
        draft = home / f".{file}-{uuid4().hex}"
        _write(draft, content.encode())
        draft.rename(home / file)

    def _card(self, folder: Path) -> ModelCard:
        if folder not in self._read:
            try:
                self._read[folder] = ModelCard.model_validate_json((folder / "card.json").read_bytes())
            except ValidationError as error:
                raise CheckpointError(f"{folder / 'card.json'} is not a model card: {error}") from error
        return self._read[folder]


def _versions(home: Path) -> dict[int, Path]:
    """The folders of one model that hold a card, by version."""
    cards = home.glob("[0-9]*/card.json")
    return {int(card.parent.name): card.parent for card in cards if card.parent.name.isdecimal()}


def written(card: ModelCard) -> bytes:
    """A card as its file has it."""
    return (card.model_dump_json(indent=2) + "\n").encode()


def _number(path: Path) -> int | None:
    """The number that a file holds; None where it holds none."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def _write(path: Path, content: bytes) -> None:
    """Writes through to the disk, so that a rename afterwards never shows an empty file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
