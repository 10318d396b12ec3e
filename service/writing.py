"""How answers leave the API: the head of one travels with its body, in one write to the socket where uvicorn makes two."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD = b"HTTP/1.1 "


class HeadWithBody:
    """A transport that keeps the head of an answer until the body comes, or until the loop's next turn."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._write, self._close, self._loop = transport.write, transport.close, loop
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._head and data.startswith(HEAD):
            self._head = data
            self._loop.call_soon(self._flush)
        else:
            head, self._head = self._head, b""
            self._write(head + data)

    def close(self) -> None:
        self._flush()
        self._close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class Protocol(HttpToolsProtocol):
    """For `uvicorn --http service.writing:Protocol`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = HeadWithBody(transport, self.loop)  # type: ignore[assignment]
