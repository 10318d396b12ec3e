"""Hears what is published, in a thread of its own; a connection that is lost is mended."""

import time
from collections.abc import Callable, Mapping
from typing import Any

from redis import Redis

from workers.connection import AWAY

RETRY_EVERY_S = 0.2


class Listening:
    """Calls a channel's handler with each message, and `missed` after every time it was away: others may have been sent meanwhile.

    `failed` is called with an error of a handler, after which nothing is heard any more.
    """

    def __init__(
        self,
        redis: Redis,
        handlers: Mapping[str, Callable[[Any], None]],
        missed: Callable[[], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._missed, self._failed = missed, failed
        self._pubsub = redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self._pubsub.subscribe(**handlers)
        self._pubsub.connection.register_connect_callback(self._connected)
        # Without a time limit it waits in the kernel, which notices a dead connection (redis-py asks for keepalive); with one it asks twice
        # whether there is something to read, before each message.
        self._thread = self._pubsub.run_in_thread(sleep_time=None, daemon=True, exception_handler=self._retry)

    def stop(self) -> None:
        """Returns when no handler will be called any more, or one takes long."""
        self._thread.stop()
        self._pubsub.unsubscribe()  # which wakes the thread: told to stop by now, or it would go on to wait
        self._thread.join(timeout=1)
        self._pubsub.close()

    def _connected(self, connection: Any) -> None:
        self._missed()

    def _retry(self, error: Exception, *rest: Any) -> None:
        if not isinstance(error, AWAY):
            self._failed(error)
            raise error
        time.sleep(RETRY_EVERY_S)  # redis-py connects and subscribes anew by itself
