"""Hears what is published; a connection that is lost is mended."""

from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis

from workers.queue.connection import AWAY

READ_LIMIT_S = 1.0  # for the rest of a message of which a part has come


class Listening:
    """Calls a channel's handler with each message, and `missed` after every time it was away: others may have been sent meanwhile."""

    def __init__(self, redis: Redis, handlers: Mapping[str, Callable[[Any], None]], missed: Callable[[], None]) -> None:
        self._missed = missed
        self._pubsub = redis.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(**handlers)
        self._pubsub.connection.register_connect_callback(self._connected)

    def fileno(self) -> int:
        """To poll for something to hear; -1 while it is not connected, which `hear` mends."""
        socket = self._pubsub.connection._sock
        return socket.fileno() if socket else -1

    def hear(self) -> None:
        """Hands out what has come. Raises what redis-py raises while Redis is away, and what a handler raises."""
        while self._has_come():
            message = self._pubsub.parse_response(block=False, timeout=READ_LIMIT_S)
            if message is not None:
                self._pubsub.handle_message(message)

    def stop(self) -> None:
        """Nothing is heard from now on."""
        self._pubsub.close()

    def _has_come(self) -> bool:
        """Whether there is something to read; connects if need be."""
        connection = self._pubsub.connection
        try:
            return bool(connection.can_read(timeout=0))
        except AWAY:
            connection.disconnect()
            raise

    def _connected(self, connection: Any) -> None:
        self._missed()
