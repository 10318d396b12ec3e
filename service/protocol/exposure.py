"""What keeps an API that has no keys from other machines."""

import ipaddress

from workers.queue.access import AccessKeys
from workers.queue.broker import BrokerUnavailable
from workers.queue.connection import connect


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address, or whether it is this machine's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def nobody_has_a_key(redis_url: str) -> str | None:
    """Why the API must not be reached from elsewhere; None where there are keys."""
    try:
        if AccessKeys(connect(redis_url)).all():
            return None
    except BrokerUnavailable as error:
        return f"it cannot be told whether there is an API key: {error}"
    return "there is no API key, so everybody could do everything; make one with `ebbtide keys create --name me --scope admin`"
