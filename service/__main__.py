"""`python -m service` serves the API on one address, by the settings EBBTIDE_*."""

import argparse
from functools import partial

import uvicorn

from models.checkpoints import StoreUnavailable
from service.app import create_app
from service.protocol.connection import bounded
from service.protocol.exposure import is_loopback, nobody_has_a_key
from service.protocol.metrics import ApiMetrics
from service.settings import Settings
from workers import logs
from workers.bucket import open_store

DRAIN_LIMIT_S = 30  # that open requests have to end in, after SIGINT or SIGTERM


def main() -> None:
    """Serves until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (8000)")
    parser.add_argument("--log-level", default="info", choices=("critical", "error", "warning", "info", "debug"))
    given = parser.parse_args()
    settings = Settings()
    if not is_loopback(given.host) and (reason := nobody_has_a_key(settings.redis_url)):
        raise SystemExit(f"refusing to listen on {given.host}: {reason}")
    settings = settings.model_copy(update={"allowed_hosts": (*settings.allowed_hosts, given.host)})
    try:
        store = open_store(settings)
    except StoreUnavailable as error:
        raise SystemExit(str(error)) from None
    logs.set_up(settings)
    metrics, own = ApiMetrics(), {"log_config": None} if logs.is_set(settings) else {"log_level": given.log_level}
    uvicorn.run(
        partial(create_app, settings, store=store, metrics=metrics),
        factory=True,
        host=given.host,
        port=given.port,
        http=bounded(settings, metrics),
        ws="none",
        h11_max_incomplete_event_size=settings.max_header_bytes,
        access_log=False,
        timeout_graceful_shutdown=DRAIN_LIMIT_S,
        **own,
    )


if __name__ == "__main__":
    main()
