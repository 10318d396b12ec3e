"""Who asks: the name that turns are ordered by."""

import re

from fastapi import Request

CALLER = "X-Ebbtide-Caller"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,63}")


def caller_of(request: Request) -> str:
    """For whom a request counts: the name in `X-Ebbtide-Caller`, if it is one, else the address it came from.

    It orders turns and proves nothing: who must not choose it has to be kept from the header by a proxy.
    """
    named = request.headers.get(CALLER, "")
    if _NAME.fullmatch(named):
        return named
    return request.client.host if request.client else ""
