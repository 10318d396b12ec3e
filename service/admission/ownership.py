"""Whose models are whose: a name belongs to the key that trains it first; without keys, and to an admin, all are open."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from models.checkpoints import Store
from service.admission.callers import acting
from service.admission.dependencies import Dependencies
from service.protocol.errors import Refusal


def require_ownership(store: Store, name: str) -> None:
    """Raises Refusal where the request being answered may not add to a model or choose its default version."""
    key = acting.get()
    if key is None or "admin" in key.scopes:
        return
    owner = store.owner(name)
    if owner != key.name and (owner is not None or store.versions(name)):
        whose = "belongs to another key" if owner else "belongs to no key"
        raise Refusal("forbidden", f"the model {name!r} {whose}; this needs the scope 'admin', or another name")


@asynccontextmanager
async def claimed(dependencies: Dependencies, name: str) -> AsyncIterator[None]:
    """A model the request may add to, which becomes its key's if it is new; not if the block raises. Raises Refusal."""
    key, store = acting.get(), dependencies.store

    def claim() -> bool:
        require_ownership(store, name)
        if key is None or store.owner(name) is not None or store.versions(name):
            return False
        if store.claim(name, key.name) != key.name:
            require_ownership(store, name)  # another request was first
            return False
        return True

    ours = await dependencies.off_loop(claim)
    try:
        yield
    except BaseException:
        if ours:
            await dependencies.off_loop(lambda: store.release(name))
        raise
