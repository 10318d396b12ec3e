"""A worker's subscription to Redis channels, which reconnects by itself. It polls the socket of redis-py's private connection."""

from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis

from workers.queue.connection import AWAY

READ_LIMIT_S = 1.0  # for the rest of a message of which a part has come


class Subscription:
    """Calls a channel's handler with each message, and `missed` after each reconnection, as messages may have been lost before it."""

    def __init__(self, redis: Redis, handlers: Mapping[str, Callable[[Any], None]], missed: Callable[[], None]) -> None:
        self._missed = missed
        self._pubsub = redis.pubsub()  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(**handlers)
        self._pubsub.connection.register_connect_callback(self._connected)

    def fileno(self) -> int:
        """The socket to poll for messages; -1 while there is no connection, until `read` reconnects."""
        socket = self._pubsub.connection._sock
        return socket.fileno() if socket else -1

    def read(self) -> None:
        """Calls the handlers with the messages that have come. Raises redis-py's errors while Redis is away, and a handler's errors."""
        while self._has_come():
            message = self._pubsub.parse_response(block=False, timeout=READ_LIMIT_S)
            if message is not None:
                self._pubsub.handle_message(message)

    def close(self) -> None:
        """Calls no handler from now on."""
        self._pubsub.close()

    def _has_come(self) -> bool:
        """Whether there is something to read; connects first where there is no connection."""
        connection = self._pubsub.connection
        try:
            return bool(connection.can_read(timeout=0))
        except AWAY:
            connection.disconnect()
            raise

    def _connected(self, connection: Any) -> None:
        self._missed()
