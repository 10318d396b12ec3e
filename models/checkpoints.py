"""Checkpoints on disk, `<root>/<name>/<version>/`: the card is written last, so a card on disk means a complete model.

Errors:

    CheckpointError
    ├── UnknownModel      no such name, or no such version of it
    └── DamagedWeights    the weights are not those the card describes
"""

from __future__ import annotations

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

from pydantic import ValidationError

from models.cards import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

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


class DamagedWeights(CheckpointError):
    """The file's sha256 is not the card's."""


class Listing(NamedTuple):
    """What stood in a model's folder, and whether a change since would show in the folder's time."""

    changed: int  # st_mtime_ns
    settled: bool
    folders: dict[int, Path]


class Store:
    """Every published checkpoint: those under `root`, where new versions go, and those shipped read-only."""

    def __init__(self, root: Path, *shipped: Path) -> None:
        self.root = root
        self._roots = (root, *(shipped or (ZOO,)))
        self._read: dict[Path, ModelCard] = {}  # a published card never changes
        self._listings: dict[str, Listing] = {}  # by folder, as strings: every request reads it

    def cards(self) -> list[ModelCard]:
        """The newest version of each model, by name; a card that cannot be read is logged and left out."""
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
        """The card of a version, the newest where none is named. Raises UnknownModel."""
        folders = self._folders(name)
        if not folders:
            raise UnknownModel(name, tuple(self._names()))
        chosen = max(folders) if version is None else version
        if chosen not in folders:
            raise UnknownModel(f"{name}@{chosen}", tuple(f"{name}@{known}" for known in sorted(folders)))
        return self._card(folders[chosen])

    def folder(self, card: ModelCard) -> Path:
        """Where a card's files are."""
        return self._folders(card.name)[card.version]

    def weights(self, card: ModelCard) -> dict[str, Tensor]:
        """The weights a card describes, on the CPU. Raises DamagedWeights where their sha256 is not the card's."""
        from safetensors.torch import load

        content = (self.folder(card) / "weights.safetensors").read_bytes()
        if hashlib.sha256(content).hexdigest() != card.digest:
            raise DamagedWeights(f"{card.name}@{card.version}: the sha256 of weights.safetensors is not the card's {card.digest}")
        return load(content)

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
            _write(draft / "weights.safetensors", content)
            for name, file in {**files, "samples.png": samples_png}.items():
                _write(draft / name, file)
            return self._place(card.model_copy(update={"digest": digest}), draft)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def _place(self, card: ModelCard, draft: Path) -> ModelCard:
        """Renames a draft to the next free version; another publisher may take that number first."""
        while True:
            version = max(self.versions(card.name), default=0) + 1
            numbered = card.model_copy(update={"version": version})
            _write(draft / "card.json", (numbered.model_dump_json(indent=2) + "\n").encode())
            try:
                draft.rename(self.root / card.name / str(version))
            except OSError:
                if not (self.root / card.name / str(version)).exists():
                    raise
            else:
                return numbered

    def _names(self) -> list[str]:
        return sorted({card.parent.parent.name for root in self._roots for card in root.glob("*/*/card.json")})

    def _folders(self, name: str) -> dict[int, Path]:
        """Version to folder; a published version hides a shipped one of the same number."""
        return {**self._shipped.get(name, {}), **self._listed(f"{self.root}/{name}")}

    @cached_property
    def _shipped(self) -> dict[str, dict[int, Path]]:
        """Versions to folders by model, read once: what was shipped stays as it is."""
        found: dict[str, dict[int, Path]] = {}
        for root in reversed(self._roots[1:]):
            for home in root.glob("*"):
                found[home.name] = found.get(home.name, {}) | _versions(home)
        return found

    def _listed(self, home: str) -> dict[int, Path]:
        """The versions in one folder, read again only when the folder has changed, since every request needs them."""
        try:
            changed = os.stat(home).st_mtime_ns
        except OSError:
            return {}
        known = self._listings.get(home)
        if known is None or known.changed != changed or not known.settled:
            known = self._listings[home] = Listing(changed, time.time_ns() - changed > SETTLED_NS, _versions(Path(home)))
        return known.folders

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


def _write(path: Path, content: bytes) -> None:
    """Writes through to the disk, so that a rename afterwards never shows an empty file."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
