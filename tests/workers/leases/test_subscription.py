"""A subscription on a real Valkey calls its handlers with each message, and reconnects."""

import select

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from workers.leases.subscription import Subscription


@pytest.fixture
def subscribe(redis):
    """Subscribes to two channels; also returns the messages and how often some may have been lost."""

    def make():
        heard, missed = [], []
        handlers = {name: lambda message, name=name: heard.append((name, message["data"])) for name in ("one", "two")}
        return Subscription(redis, handlers, lambda: missed.append(True)), heard, missed

    return make


def test_each_handler_gets_the_messages_of_its_channel(redis, subscribe, eventually):
    subscription, heard, missed = subscribe()
    redis.publish("two", "a")
    redis.publish("one", b"b" * 1_000_000)  # more than comes at once
    redis.publish("one", "c")
    assert eventually(lambda: select.select([subscription], [], [], 5)[0]) == [subscription]
    assert eventually(lambda: subscription.read() or len(heard) == 3)
    assert heard == [("two", b"a"), ("one", b"b" * 1_000_000), ("one", b"c")]
    subscription.read()
    assert (len(heard), missed) == (3, [])
    assert select.select([subscription], [], [], 0)[0] == []


def test_a_lost_connection_is_replaced_and_reported(redis, subscribe, eventually):
    subscription, heard, missed = subscribe()
    redis.client_kill_filter(_type="pubsub")
    redis.publish("one", "lost")
    with pytest.raises(RedisConnectionError):
        eventually(lambda: subscription.read() or heard)
    assert (heard, missed, subscription.fileno()) == ([], [], -1)
    subscription.read()
    assert missed == [True]
    redis.publish("one", "heard")
    assert eventually(lambda: subscription.read() or heard) == [("one", b"heard")]


def test_what_a_handler_raises_is_raised(redis, eventually):
    def broken(message):
        raise ValueError("an unexpected error")

    subscription = Subscription(redis, {"one": broken}, list)
    redis.publish("one", "a")
    with pytest.raises(ValueError, match="an unexpected error"):
        eventually(subscription.read)


def test_a_closed_subscription_leaves_the_channel(redis, subscribe, eventually):
    subscription, *_ = subscribe()
    assert redis.pubsub_numsub("one") == [(b"one", 1)]
    subscription.close()
    eventually(lambda: redis.pubsub_numsub("one") == [(b"one", 0)])
