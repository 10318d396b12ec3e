"""A load generator that takes little processor time; each client sends its next request as soon as it has an answer.

python -m tests.benchmarks.serving.load PORT PATH BODY CLIENTS SECONDS     prints one line of JSON
"""

import asyncio
import json
import statistics
import sys
import time
from typing import cast

import uvloop

WARM_UP = 0.2  # share of the time that is not counted


class Client(asyncio.Protocol):
    """One keep-alive connection; records the latency of each answer."""

    def __init__(self, request: bytes, count_from: float, end: float) -> None:
        self.times: list[float] = []
        self.answers = 0
        self.done = asyncio.get_running_loop().create_future()
        self._request, self._count_from, self._end = request, count_from, end
        self._answer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        if not head.startswith(b"HTTP/1.1 200") or not body.startswith(b"\x89PNG"):
            self.done.set_exception(RuntimeError(f"not a picture: {self._answer[:400]!r}"))
            self._transport.close()
            return
        now = time.perf_counter()
        self.answers += 1
        if now > self._end:
            self._transport.close()
            return
        if self._asked > self._count_from:
            self.times.append(now - self._asked)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(self.times)

    def _ask(self) -> None:
        self._answer = b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)


def _length(head: bytes) -> int:
    at = head.lower().index(b"content-length:") + 15
    return int(head[at : head.find(b"\r", at) if b"\r" in head[at:] else len(head)])


async def load(port: int, request: bytes, clients: int, seconds: float) -> dict[str, float]:
    """Answers a second, and percentiles of their latency in milliseconds."""
    loop, begun = asyncio.get_running_loop(), time.perf_counter()
    count_from, end = begun + WARM_UP * seconds, begun + seconds
    made = [await loop.create_connection(lambda: Client(request, count_from, end), "127.0.0.1", port) for _ in range(clients)]
    async with asyncio.timeout(seconds + 5):
        times = sorted(taken for one in await asyncio.gather(*(client.done for _, client in made)) for taken in one)
    cuts = statistics.quantiles(times, n=100)
    return {
        "rate": len(times) / (end - count_from),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "all": sum(client.answers for _, client in made),
    }


def main() -> None:
    port, path, body, clients, seconds = sys.argv[1:]
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    print(json.dumps(uvloop.run(load(int(port), (head + body).encode(), int(clients), float(seconds)))))


if __name__ == "__main__":
    main()
