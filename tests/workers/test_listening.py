"""Messages heard in a thread, on a real Valkey."""

import queue
import time

import pytest

from workers.listening import Listening


@pytest.fixture
def listen(redis):
    def make(**handlers):
        return Listening(redis, handlers, lambda connection=None: None, pytest.fail)

    return make


def test_every_handler_hears_its_channel(redis, listen):
    heard = queue.SimpleQueue()
    listening = listen(one=lambda message: heard.put(("one", message["data"])), two=lambda message: heard.put(("two", message["data"])))
    redis.publish("two", "a")
    redis.publish("one", "b")
    assert [heard.get(timeout=5) for _ in range(2)] == [("two", b"a"), ("one", b"b")]
    listening.stop()
    redis.publish("one", "c")
    with pytest.raises(queue.Empty):
        heard.get(timeout=0.1)


def test_it_stops_at_once_every_time(listen):
    took = []
    for _ in range(300):
        listening = listen(one=lambda message: None, two=lambda message: None)
        begun = time.monotonic()
        listening.stop()
        took.append(time.monotonic() - begun)
    assert max(took) < 0.8  # which is below the second after which it would no longer wait for the thread
