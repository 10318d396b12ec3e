"""The caller of a request: jobs of several callers take turns in the queue, and each sees its own."""

import re
from contextvars import ContextVar

from fastapi import Request

from workers.jobs import JobView
from workers.queue.access import AccessKey

HEADER = "X-Ebbtide-Caller"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")
acting: ContextVar[AccessKey | None] = ContextVar("acting", default=None)  # the key of the request being answered; None without keys


def caller_of(request: Request) -> str:
    """The name of the key; without keys, the name in `X-Ebbtide-Caller` if it is valid, else the client's address.

    The header orders turns and is no authentication.
    """
    key = acting.get()
    if key is not None:
        return key.name
    named = request.headers.get(HEADER, "")
    if _NAME.fullmatch(named):
        return named
    return request.client.host if request.client else ""


def may_see(view: JobView) -> bool:
    """Whether the request being answered may see a job: its own key's, or any without keys and for an admin."""
    key = acting.get()
    return key is None or "admin" in key.scopes or view.job.caller == key.name
