"""The way to a server, that can be shut: refused, as when nothing listens any more, or silent, as when the cable is cut."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any


class Gate:
    """Passes TCP on to a port of this machine while it is open; lives in a thread of its own."""

    def __init__(self, target: int) -> None:
        self._target, self._port = target, 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._passing = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.open()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0"

    def open(self) -> None:
        """What was held back arrives now."""
        self._run(self._open())

    def refuse(self) -> None:
        """Connections break, and no new ones come about."""
        self._run(self._refuse())

    def silence(self) -> None:
        """Connections stand, new ones come about, and nothing gets through."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def close(self) -> None:
        self._run(self._refuse())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _open(self) -> None:
        self._passing.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
            self._port = self._server.sockets[0].getsockname()[1]

    async def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        for ends in ((reader, far_writer), (far_reader, writer)):
            task = self._loop.create_task(self._pass_on(*ends))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                await self._passing.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the end of a connection, whichever way
        finally:
            writer.transport.abort()
