"""The Lua scripts that Redis runs, one file each, and the pieces they share. Imports `workers.queue.keys` alone.

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
    return "\n".join([f"local keys = {{{keys}}}", *_with_pieces(name, {}).values()])


def included(text: str) -> list[str]:
    """The pieces that a file's first line names."""
    first_line = text.partition("\n")[0]
    return first_line.removeprefix(INCLUDE).split() if first_line.startswith(INCLUDE) else []


def _with_pieces(name: str, found: dict[str, str]) -> dict[str, str]:
    """Adds a file to those found, after the pieces it needs."""
    if name not in found:
        text = (FOLDER / f"{name}.lua").read_text()
        for piece in included(text):
            _with_pieces(piece, found)
        found[name] = text
    return found
