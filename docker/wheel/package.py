"""Ebbtide's client: `Client`, `AsyncClient`, and the command `ebbtide`.

This file is the package `ebbtide`, in the wheel and wherever the sources are installed.
"""

from importlib import import_module

from service.client import (
    DEFAULT_ADDRESS,
    AsyncClient,
    Client,
    ClientError,
    Misunderstood,
    Picture,
    Refused,
    Unreachable,
)

__all__ = ["DEFAULT_ADDRESS", "AsyncClient", "Client", "ClientError", "Misunderstood", "Picture", "Refused", "Unreachable", "main"]
SERVER = "service.command.cli"


def main() -> None:
    """The command: all of it where Ebbtide's sources are, elsewhere what a client can do."""
    try:
        command = import_module(SERVER)
    except ModuleNotFoundError as error:
        if not SERVER.startswith(error.name or SERVER):
            raise  # something that a server needs is not installed
        from service.command import remote as command
    command.main()
