"""Who asks, and whether they may: API keys, their scopes and rates.

Where there is no key, callers on loopback may do everything and others nothing.
"""

import asyncio
import time
from typing import NamedTuple

from fastapi import FastAPI
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.admission.callers import acting
from service.admission.dependencies import Dependencies
from service.protocol.errors import RETRY_SOON, ErrorHandlers, Refusal
from service.protocol.exposure import is_loopback
from service.protocol.metrics import KEY
from workers.queue.access import AccessKey, AccessKeys, digest
from workers.queue.broker import BrokerUnavailable
from workers.queue.connection import guarded

FRESH_S = 1.0  # for so long what Redis said of keys is not asked again
PATIENCE_S = 0.5  # for so long a request waits for a Redis that is slow to say it
OPEN = ("/", "/livez", "/readyz", "/version", "/docs", "/openapi.json", "/favicon.ico")  # pages and probes, the same for everybody
OPEN_FOLDERS = ("/docs/assets/", "/playground/")
PUBLIC = ("/metrics", "/models")  # for any key; to this machine also while Redis is away and no key can be checked
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="ebbtide"'}


class Rate(NamedTuple):
    """How much of its rate a key has used."""

    allowed: bool
    item: RateLimitItem
    remaining: int
    reset_s: int

    @property
    def headers(self) -> dict[str, str]:
        window = self.item.get_expiry()
        return {
            "RateLimit-Policy": f'"key";q={self.item.amount};w={window}',
            "RateLimit": f'"key";r={self.remaining};t={self.reset_s}',
        }


class AccessControl:
    """Answers 401, 403 and 429; lets others through with `acting` set."""

    def __init__(self, app: ASGIApp, owner: FastAPI, handlers: ErrorHandlers) -> None:
        self._app, self._owner, self._handlers = app, owner, handlers
        self._keys: dict[str, AccessKey] | None = None
        self._asked = 0.0
        self._asking: asyncio.Task[dict[str, AccessKey]] | None = None
        self._limiter: MovingWindowRateLimiter | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._is_open(scope):
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        try:
            key = await self._key(scope)
            if key is not None and key.rate is not None:
                rate = await self._dependencies.off_loop(lambda: self._spent(key))
                headers = rate.headers
                if not rate.allowed:
                    detail = f"the key {key.name!r} may make {key.rate} requests"
                    raise Refusal("rate-limited", detail, headers=headers | {"Retry-After": str(max(rate.reset_s, 1))})
        except (Refusal, BrokerUnavailable) as error:
            away = Refusal("redis-away", "Redis does not answer, so no key can be checked", headers=RETRY_SOON)
            await self._handlers.refuse(error if isinstance(error, Refusal) else away)(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.lower().encode(), value.encode()) for name, value in headers.items())]
            await send(message)

        token = acting.set(key)
        try:
            await self._app(scope, receive, with_headers if headers else send)
        finally:
            acting.reset(token)

    @property
    def _dependencies(self) -> Dependencies:
        found: Dependencies = self._owner.state.dependencies
        return found

    def _is_open(self, scope: Scope) -> bool:
        path = scope["path"]
        if path == "/metrics" and self._dependencies.settings.open_metrics:
            return True
        return path in OPEN or path.startswith(OPEN_FOLDERS) or scope["method"] == "OPTIONS"

    async def _key(self, scope: Scope) -> AccessKey | None:
        """The key of a request; None where there are no keys and the client is on loopback. Raises Refusal."""
        try:
            known = await self._known()
        except BrokerUnavailable:
            if scope["method"] in ("GET", "HEAD") and scope["path"].startswith(PUBLIC) and _is_near(scope):
                return None
            raise
        if not known:
            if _is_near(scope):
                return None
            raise Refusal("unauthorized", "there is no API key yet; `ebbtide keys create` makes one", headers=CHALLENGE)
        kind, _, secret = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not secret.strip():
            raise Refusal("unauthorized", "an API key is needed: `Authorization: Bearer KEY`", headers=CHALLENGE)
        key = known.get(digest(secret.strip()))
        if key is None:
            raise Refusal("unauthorized", "this API key is not known", headers=CHALLENGE)
        scope[KEY] = key.name
        needed = _needed(scope["method"], scope["path"])
        if needed and not key.scopes & {needed, "admin"}:
            detail = f"{scope['method']} {scope['path']} needs the scope {needed!r}, and the key has {', '.join(sorted(key.scopes))}"
            raise Refusal("forbidden", detail)
        return key

    async def _known(self) -> dict[str, AccessKey]:
        """What Redis knows. The first request waits for it; later ones wait a moment at most, then go by what was known last."""
        if self._keys is not None and time.monotonic() - self._asked < FRESH_S:
            return self._keys
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        if self._keys is None:
            return await asyncio.shield(self._asking)
        await asyncio.wait({self._asking}, timeout=PATIENCE_S)
        return self._keys

    async def _ask(self) -> dict[str, AccessKey]:
        """Asks Redis, for all requests that wait. Raises BrokerUnavailable where nothing was ever known."""
        try:
            self._keys = await self._dependencies.off_loop(AccessKeys(self._dependencies.broker.redis).all)
        except BrokerUnavailable:
            if self._keys is None:
                raise
        self._asked = time.monotonic()
        return self._keys

    def _spent(self, key: AccessKey) -> Rate:
        assert key.rate is not None
        if self._limiter is None:
            self._limiter = MovingWindowRateLimiter(RedisStorage(self._dependencies.settings.redis_url))
        item = parse(key.rate)
        with guarded():
            allowed = self._limiter.hit(item, key.name)
            stats = self._limiter.get_window_stats(item, key.name)
        return Rate(allowed, item, stats.remaining, max(round(stats.reset_time - time.time()), 0))


def _needed(method: str, path: str) -> str | None:
    """The scope that a request needs; None where any key is enough."""
    if method in ("GET", "HEAD"):
        return "admin" if path.startswith("/models/") and path.endswith("/weights.safetensors") else None
    if method == "DELETE" and path.startswith("/models/"):
        return "admin"
    return "generate" if path in ("/generate", "/replay") or path.startswith("/jobs/") else "train"


def _is_near(scope: Scope) -> bool:
    """Whether a request comes from this machine."""
    client = scope.get("client")
    return client is not None and is_loopback(client[0])
