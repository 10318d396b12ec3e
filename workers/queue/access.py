"""API keys in Redis: the hash of each secret with its name, scopes and rate. A secret is shown once, when its key is made."""

from __future__ import annotations

import hashlib
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from redis import Redis

from workers.queue import keys
from workers.queue.connection import guarded

Scope = Literal["generate", "train", "admin"]
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
PREFIX = "eb_"  # so that people and scanners of secrets know one


class AccessKey(BaseModel):
    """What a key may do."""

    model_config = ConfigDict(frozen=True)

    name: str = Field(pattern=NAME)
    scopes: frozenset[Scope] = Field(min_length=1)
    rate: str | None = Field(None, description="requests in a time, such as 60/minute; None for no limit")
    share: float | None = Field(None, gt=0, le=1, description="of the backlog and of the bytes kept, that its jobs may take; None for all")
    created: float = Field(0.0, description="Unix seconds")


class NameTaken(Exception):
    """A key of that name exists."""


class AccessKeys:
    """The keys of one installation."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    def create(self, key: AccessKey) -> str:
        """Stores a key and returns its secret. Raises NameTaken."""
        if any(known.name == key.name for known in self.all().values()):
            raise NameTaken(key.name)
        secret = PREFIX + secrets.token_urlsafe(32)
        with guarded():
            self._redis.hset(keys.ACCESS, digest(secret), key.model_copy(update={"created": time.time()}).model_dump_json())
        return secret

    def revoke(self, name: str) -> bool:
        """Whether there was a key of that name."""
        found = [stored for stored, key in self.all().items() if key.name == name]
        with guarded():
            return bool(found and self._redis.hdel(keys.ACCESS, *found))

    def all(self) -> dict[str, AccessKey]:
        """Every key by the hash of its secret."""
        with guarded():
            stored: Any = self._redis.hgetall(keys.ACCESS)
        return {name.decode(): AccessKey.model_validate_json(value) for name, value in stored.items()}


def digest(secret: str) -> str:
    """What is stored of a secret: SHA-256, which is enough for 256 random bits."""
    return hashlib.sha256(secret.encode()).hexdigest()
