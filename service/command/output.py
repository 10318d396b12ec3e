"""What the command prints: lists, results, and errors as one line."""

import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

from pydantic import BaseModel
from rich.console import Console
from rich.table import Column, Table

from service.client import ClientError
from service.protocol.schemas import JobReply

out, err = Console(), Console(stderr=True)


class Canceled(ClientError):
    """Ctrl-C ended it."""


def listed(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table in a terminal; elsewhere whole cells with tabs between them, a line each."""
    if not out.is_terminal:
        for row in (headings, *rows):
            print("\t".join(row))
        return
    table = Table(Column(headings[0], no_wrap=True), *headings[1:], box=None)
    for row in rows:
        table.add_row(*row)
    out.print(table)


def told(result: BaseModel, line: str, as_json: bool) -> None:
    """One line, or what it is about as JSON."""
    if as_json:
        out.print_json(result.model_dump_json(exclude_none=True))
    else:
        out.print(line, highlight=False, soft_wrap=True)


def failure(job: JobReply) -> str:
    """Why a job that is over has no result."""
    return f"{job.problem.reason}: {job.problem.detail}" if job.problem else f"the job is {job.status}"


def fail(error: Exception, code: int = 1) -> NoReturn:
    """Prints an error as one line and exits."""
    err.print("ebbtide:", style="red", end=" ")
    err.print(str(error), markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)
