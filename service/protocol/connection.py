"""A connection as uvicorn speaks it through h11, with bounds on what a peer may send, how slowly, and in how many connections.

h11 and not httptools, because that one drops the body of a request that asks for an upgrade and reads it as the next request.
"""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.protocol.errors import RETRY_SOON, Refusal, document
from service.protocol.metrics import ApiMetrics
from service.settings import Settings

PROBE_EVERY_S = 1.0  # how often a peer that has ended its side is asked whether it still listens


def bounded(settings: Settings, metrics: ApiMetrics) -> type["Connection"]:
    """The class of connections with the bounds of the settings, counted in the metrics, for uvicorn's `http`."""
    return type("BoundedConnection", (Connection,), {"bounds": settings, "metrics": metrics})


class Connection(H11Protocol):
    """Answers what breaks a bound with a problem document, and closes."""

    bounds: Settings
    metrics: ApiMetrics
    transport: asyncio.Transport

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.clock: asyncio.TimerHandle | None = None  # ends a request that does not get complete
        self.awaited: type[h11.Event] | None = None  # what has to be complete when the clock strikes
        self.half_closed = False  # whether the peer has ended its side
        self.probing: asyncio.TimerHandle | None = None
        self.unread = 0  # bytes of a head that is not complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.metrics.connections.inc()
        if len(self.connections) > self.bounds.max_connections:
            self.refuse(Refusal("too-many-connections", f"there are {self.bounds.max_connections} connections already", headers=RETRY_SOON))
        else:
            self.expect(h11.Request)

    def connection_lost(self, exc: Exception | None) -> None:
        self.expect(None)
        self.metrics.connections.dec()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self.conn.their_state is h11.IDLE:
            self.unread += len(data)
        super().data_received(data)
        self.look()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """A peer that has only ended its side still gets the answer. One that has gone looks the same, so it is asked.

        asyncio closes the connection where this is not True.
        """
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body or self.conn.their_http_version == b"1.0":
            return None
        self.half_closed = True
        self.probe()
        return True

    def probe(self) -> None:
        """Sends `102 Processing` while the answer takes. A peer that has gone refuses the bytes, and then the connection is lost."""
        if self.transport.is_closing() or self.cycle.response_complete:
            return
        if not self.cycle.response_started:
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=102, headers=[], reason=b"Processing")) or b"")
        if self.probing is not None:
            self.probing.cancel()
        self.probing = self.loop.call_later(PROBE_EVERY_S, self.probe)

    def on_response_complete(self) -> None:
        super().on_response_complete()  # begins a pipelined request
        if self.half_closed and self.cycle.response_complete:
            self.transport.close()
        elif self.half_closed:
            self.probe()
        self.look()

    def look(self) -> None:
        """Winds the clock for what is incomplete now."""
        if self.transport.is_closing():
            self.expect(None)
            return
        state = self.conn.their_state
        if state is not h11.IDLE:
            self.unread = 0
        if state is h11.SEND_BODY:
            self.expect(h11.EndOfMessage)
        else:
            self.expect(h11.Request if state is h11.IDLE and self.unread else None)

    def expect(self, event: type[h11.Event] | None) -> None:
        """Starts the clock unless it runs for the same part of the request already."""
        if event is self.awaited:
            return
        self.awaited = event
        if self.clock is not None:
            self.clock.cancel()
            self.clock = None
        if event is not None:
            limit_s = self.bounds.head_timeout_s if event is h11.Request else self.bounds.body_timeout_s
            self.clock = self.loop.call_later(limit_s, self.strike, limit_s)

    def strike(self, limit_s: float) -> None:
        """The request did not get complete in time."""
        in_head = self.awaited is h11.Request
        if (in_head and not self.unread) or (not in_head and self.cycle.response_started):
            self.transport.close()  # nothing has begun, or it is answered already
        else:
            part = "headers were" if in_head else "body was"
            self.refuse(Refusal("too-slow", f"the request's {part} not complete after {limit_s:g} s"))

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn for what h11 cannot read, too long heads among it."""
        limit = self.bounds.max_header_bytes
        if self.unread > limit:
            self.refuse(Refusal("headers-too-large", f"the request's headers are longer than {limit} bytes"))
        else:
            self.refuse(Refusal("malformed-request", "this is not HTTP/1.1"))

    def refuse(self, refusal: Refusal) -> None:
        """Writes a problem document, unless an answer has begun, and closes."""
        self.expect(None)
        if not self.transport.is_closing() and (self.cycle is None or not self.cycle.response_started or self.cycle.response_complete):
            answer = document(refusal)
            self.metrics.rejected.labels(refusal.slug).inc()
            lines = [b"HTTP/1.1 %d " % answer.status_code, *(b"\r\n%b: %b" % header for header in answer.raw_headers)]
            self.transport.write(b"".join([*lines, b"\r\nconnection: close\r\n\r\n", bytes(answer.body)]))
        self.transport.close()
