"""The caller of a request: jobs of several callers take turns in the queue."""

import re

from fastapi import Request

HEADER = "X-Ebbtide-Caller"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")


def caller_of(request: Request) -> str:
    """The name in `X-Ebbtide-Caller` if it is valid, else the client's address.

    The name orders turns and is no authentication: a proxy must remove the header from clients that may not choose their name.
    """
    named = request.headers.get(HEADER, "")
    if _NAME.fullmatch(named):
        return named
    return request.client.host if request.client else ""
