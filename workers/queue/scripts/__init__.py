"""The Lua scripts that Redis runs, one file each, and in `pieces/` what they share. Imports `workers.queue.keys` alone.

A file may name the pieces it needs in its first line, as in `-- include: clock many`. Every file can use the table `keys`.
"""

import json
from functools import cache
from pathlib import Path

from workers.queue.keys import SCRIPT_KEYS

FOLDER = Path(__file__).parent
INCLUDE = "-- include:"


@cache
def script(name: str) -> str:
    """A script as Redis gets it: the table of keys, the pieces it needs, each once, and its own file. FileNotFoundError without a file."""
    keys = ", ".join(f"{key} = {json.dumps(value)}" for key, value in SCRIPT_KEYS.items())
    text = (FOLDER / f"{name}.lua").read_text()
    pieces: dict[str, str] = {}
    _add_pieces(text, pieces)
    return "\n".join([f"local keys = {{{keys}}}", *pieces.values(), text])


def included(text: str) -> list[str]:
    """The pieces that a file's first line names."""
    first_line = text.partition("\n")[0]
    return first_line.removeprefix(INCLUDE).split() if first_line.startswith(INCLUDE) else []


def _add_pieces(text: str, found: dict[str, str]) -> None:
    """Adds the pieces that a file needs to those found, each after the pieces it needs itself."""
    for name in included(text):
        if name not in found:
            piece = (FOLDER / "pieces" / f"{name}.lua").read_text()
            _add_pieces(piece, found)
            found[name] = piece
