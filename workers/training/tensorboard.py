"""A run's figures, samples and notes as TensorBoard files, beside its other reports."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from models.images import grid

if TYPE_CHECKING:
    import numpy as np
    from torch.utils.tensorboard import SummaryWriter

    from models.training.run import Reporter

FLUSH_S = 10  # a killed run loses at most so much


class TensorBoard:
    """Writes what it hears into a folder, and tells another reporter too."""

    def __init__(self, reporter: "Reporter", folder: Path) -> None:
        self._reporter, self._folder = reporter, folder
        self._writer: SummaryWriter | None = None

    def progress(self, done: int, total: int, stage: str) -> None:
        self._reporter.progress(done, total, stage)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._at(step).add_scalar(name, value, step)
        self._reporter.metrics(step, values)

    def sample(self, step: int, images: "np.ndarray") -> None:
        self._at(step).add_image("samples", grid(images), step, dataformats="HWC")
        self._reporter.sample(step, images)

    def note(self, step: int, text: str) -> None:
        """Steps after this one are taken again, so TensorBoard forgets them."""
        self.close()
        self._at(step + 1).add_text("note", text, step + 1)
        self._reporter.note(step, text)

    def should_stop(self) -> bool:
        return self._reporter.should_stop()

    def close(self) -> None:
        """Writes what is left."""
        if self._writer is not None:
            self._writer.close()
        self._writer = None

    def _at(self, step: int) -> "SummaryWriter":
        """The writer; a new one replaces what an earlier process wrote of this step and later ones."""
        from torch.utils.tensorboard import SummaryWriter

        if self._writer is None:
            self._writer = SummaryWriter(self._folder, purge_step=step, flush_secs=FLUSH_S)
        return self._writer


@contextmanager
def recorded(reporter: "Reporter", folder: str, run: str) -> "Iterator[Reporter]":
    """The reporter, with TensorBoard files in the folder's part for this run; just the reporter where the folder is empty."""
    if not folder:
        yield reporter
        return
    board = TensorBoard(reporter, Path(folder) / run)
    try:
        yield board
    finally:
        board.close()
