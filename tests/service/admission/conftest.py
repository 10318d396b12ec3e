"""Clients with API keys of one real server."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import httpx
import pytest

from service.settings import Settings
from tests.service.conftest import LIMIT_S
from workers.queue.access import AccessKey, AccessKeys
from workers.queue.broker import Broker

Guarded = Callable[..., httpx.Client]


@pytest.fixture
def access(broker: Broker) -> AccessKeys:
    return AccessKeys(broker.redis)


@pytest.fixture
def guarded(access: AccessKeys, serve: Callable[[Settings], httpx.Client], settings: Settings) -> Iterator[Guarded]:
    """Clients of one server, each with a key of its own; the first call makes the server."""
    secrets = {"root": access.create(AccessKey(name="root", scopes=frozenset({"admin"})))}
    server = serve(settings)

    def client(name: str | None, *scopes: str, rate: str | None = None, share: float | None = None) -> httpx.Client:
        if name is not None and name not in secrets:
            secrets[name] = access.create(AccessKey(name=name, scopes=frozenset(scopes), rate=rate, share=share))
            admin = {"Authorization": f"Bearer {secrets['root']}"}
            give_up = time.monotonic() + LIMIT_S
            while httpx.get(f"{server.base_url}/jobs", headers={"Authorization": f"Bearer {secrets[name]}"}).status_code == 401:
                assert time.monotonic() < give_up
                httpx.get(f"{server.base_url}/jobs", headers=admin)
                time.sleep(0.05)
        headers = {} if name is None else {"Authorization": f"Bearer {secrets[name]}"}
        return stack.enter_context(httpx.Client(base_url=server.base_url, headers=headers, timeout=LIMIT_S))

    with ExitStack() as stack:
        yield client
