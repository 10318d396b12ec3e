"""The bytes on the wire: what is too much, too slow, cut off or half closed, on a real server."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from service.protocol.connection import PROBE_EVERY_S

BODY = json.dumps({"model": "toy", "sampler": "prior"}).encode()


@contextmanager
def connected(address: str) -> Iterator[socket.socket]:
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=10) as wire:
        yield wire


def post(path: str = "/generate", body: bytes = BODY, *headers: bytes, length: int | None = None) -> bytes:
    lines = [
        b"POST %b HTTP/1.1" % path.encode(),
        b"Host: localhost",
        b"Content-Length: %d" % (len(body) if length is None else length),
        *headers,
    ]
    return b"\r\n".join([*lines, b"", body])


def answers(wire: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    while part := wire.recv(65536):
        parts.append(part)
    return b"".join(parts)


def statuses(said: bytes) -> list[int]:
    return [int(line.split()[1]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]


def test_an_offer_to_upgrade_is_ignored_and_the_body_stays_a_body(address, painter):
    smuggled = b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n"
    upgrade = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA")
    for body, status in ((BODY, 200), (smuggled, 400)):
        with connected(address) as wire:
            wire.sendall(post("/generate", body, *upgrade))
            wire.settimeout(2)
            said = b""
            try:
                while part := wire.recv(65536):
                    said += part
            except TimeoutError:
                pass
            assert statuses(said) == [status]


@pytest.mark.parametrize("value", [b"\r\nX-Long: " + 20_000 * b"x", b"".join(b"\r\nX-%d: 1" % number for number in range(200))])
def test_heads_that_are_too_long_or_too_many_are_refused(value, address):
    with connected(address) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost" + value + b"\r\n\r\n")
        said = answers(wire)
    assert statuses(said) == [431]
    assert b"application/problem+json" in said


def test_an_endless_head_is_refused_while_it_comes(address):
    with connected(address) as wire:
        wire.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
        sent = 0
        try:
            for _ in range(1000):
                wire.sendall(10_000 * b"x")
                sent += 10_000
                time.sleep(0.001)
        except (BrokenPipeError, ConnectionResetError):
            pass
    assert sent < 5_000_000


def test_requests_that_drip_end_by_a_timeout_and_idle_ones_too(serve, settings):
    client = serve(settings.model_copy(update={"head_timeout_s": 0.3, "body_timeout_s": 0.3}))
    for start, status in ((b"GET /livez HT", [408]), (b"", []), (post(length=1000), [408])):
        with connected(str(client.base_url)) as wire:
            wire.sendall(start)
            begun = time.monotonic()
            assert statuses(answers(wire)) == status
            assert time.monotonic() - begun < 5
    with connected(str(client.base_url)) as wire:  # one byte at a time moves no clock
        wire.settimeout(0.05)
        said, begun = b"", time.monotonic()
        for byte in b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + 300 * b"y":
            try:
                wire.sendall(bytes([byte]))
                said += wire.recv(4096)
            except TimeoutError:
                continue
            except OSError:
                break
            if said:
                break
        assert time.monotonic() - begun < 5
        assert statuses(said) == [408]


def test_connections_are_bounded(serve, settings):
    client = serve(settings.model_copy(update={"max_connections": 3}))
    with connected(str(client.base_url)), connected(str(client.base_url)), connected(str(client.base_url)):
        with connected(str(client.base_url)) as wire:
            said = answers(wire)
        assert statuses(said) == [503]
        assert b"retry-after" in said.lower()
    deadline = time.monotonic() + 10
    while client.get("/livez").status_code != 200 or "ebbtide_connections 1.0" not in client.get("/metrics").text:
        assert time.monotonic() < deadline
    assert 'ebbtide_rejected_total{reason="too-many-connections"} 1.0' in client.get("/metrics").text


def test_a_client_that_leaves_in_its_body_is_no_internal_error(address, api, caplog):
    def refused() -> dict[str, str]:
        page = api.get("/metrics").text
        return {line.split()[0]: line.split()[1] for line in page.splitlines() if line.startswith("ebbtide_rejected_total")}

    before = refused()
    with connected(address) as wire:
        wire.sendall(post(length=1000))
        time.sleep(0.1)
    deadline = time.monotonic() + 10
    name = 'ebbtide_rejected_total{reason="incomplete-body"}'
    while refused().get(name) == before.get(name):
        assert time.monotonic() < deadline
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert refused().get('ebbtide_rejected_total{reason="internal"}') == before.get('ebbtide_rejected_total{reason="internal"}')


def test_half_a_connection_is_enough_for_an_answer(address, painter):
    with connected(address) as wire:
        wire.sendall(post())
        wire.shutdown(socket.SHUT_WR)
        said = answers(wire)
    assert statuses(said)[-1] == 200
    assert b"\x89PNG" in said


@pytest.mark.parametrize("headers", [(), (b"Prefer: wait=30",)])
def test_half_a_connection_waits_for_its_answer_however_long_it_takes(address, painter, headers):
    painter.rest()
    with connected(address) as wire:
        wire.sendall(post("/generate", BODY, *headers))
        wire.shutdown(socket.SHUT_WR)
        time.sleep(2.5 * PROBE_EVERY_S)
        painter.working.set()
        assert statuses(answers(wire)) == [102, 102, 102, 200]


def test_every_request_before_the_end_of_half_a_connection_is_answered(address, painter):
    with connected(address) as wire:
        wire.sendall(post() + post())
        wire.shutdown(socket.SHUT_WR)
        assert [status for status in statuses(answers(wire)) if status != 102] == [200, 200]


def test_who_has_gone_is_told_from_who_only_listens(address, api, painter):
    painter.rest()
    for count, ends in enumerate(("closes", "leaves after it ended its side"), 1):
        with connected(address) as wire:
            wire.sendall(post())
            if ends != "closes":
                wire.shutdown(socket.SHUT_WR)
                assert wire.recv(100).startswith(b"HTTP/1.1 102 ")
        deadline = time.monotonic() + 10
        while [job["status"] for job in api.get("/jobs").json()["jobs"]] != ["canceled"] * count:
            assert time.monotonic() < deadline, ends


def test_a_peer_that_speaks_http_1_0_is_sent_no_interim_answer(address, painter):
    with connected(address) as wire:
        wire.sendall(post().replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert statuses(answers(wire)) == [200]


@pytest.mark.parametrize("origin", ["http://[::1", "http://[", "null", "\x7f", "http://evil.example"])
def test_origins_that_are_foreign_or_no_origin_are_refused(origin, api):
    assert api.post("/generate", content=BODY, headers={"Origin": origin}).status_code == 403


@pytest.mark.parametrize("accept", ["image/png;q=inf", "image/png;q=nan", "image/png;q=1e1", "image/png;q=2", "image/png;q=-1"])
def test_qualities_that_are_none_accept_nothing(accept, api, painter):
    assert api.post("/generate", content=BODY, headers={"Accept": accept}).status_code == 406
    assert api.post("/generate", content=BODY, headers={"Accept": f"{accept}, application/json"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/livez", "/version", "/models", "/models/toy", "/models/toy/samples.png", "/jobs", "/openapi.json", "/docs"]
)
def test_head_is_get_without_the_body(path, api):
    got, headed = api.get(path), api.head(path)
    assert headed.status_code == got.status_code == 200
    assert headed.content == b""
    assert headed.headers["content-length"] == got.headers["content-length"]
    assert headed.headers["content-type"] == got.headers["content-type"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [("/generate", "OPTIONS, POST"), ("/jobs/x", "DELETE, GET, HEAD, OPTIONS"), ("/models", "GET, HEAD, OPTIONS")],
)
def test_options_and_405_say_what_is_allowed(path, methods, api):
    options, put = api.options(path), api.put(path)
    assert (options.status_code, options.headers["allow"]) == (204, methods)
    assert (put.status_code, put.headers["allow"]) == (405, methods)
    assert api.options("/nowhere").status_code == 404


def test_encoded_bodies_are_refused_with_what_is_read(api, painter):
    refused = api.post("/generate", content=BODY, headers={"Content-Encoding": "gzip"})
    assert (refused.status_code, refused.headers["accept-encoding"]) == (415, "identity")
    assert api.post("/generate", content=BODY, headers={"Content-Encoding": "identity"}).status_code == 200


def test_images_and_cards_have_tags_that_a_client_can_ask_with(api, painter):
    made = api.post("/generate", content=BODY)
    for path in (made.headers["content-location"], "/models", "/models/toy"):
        first = api.get(path)
        again = api.get(path, headers={"If-None-Match": f'"other", W/{first.headers["etag"].removeprefix("W/")}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
        assert api.get(path, headers={"If-None-Match": '"other"'}).content == first.content


def test_pages_of_origins_that_are_set_may_call(serve, settings, painter):
    client = serve(settings.model_copy(update={"cors_origins": ("https://studio.example",)}))
    preflight = {"Origin": "https://studio.example", "Access-Control-Request-Method": "POST"}
    assert client.options("/generate", headers=preflight).headers["access-control-allow-origin"] == "https://studio.example"
    answer = client.post("/generate", content=BODY, headers={"Origin": "https://studio.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://studio.example")
    assert client.post("/generate", content=BODY, headers={"Origin": "https://evil.example"}).status_code == 403


def test_the_version_is_told(api: httpx.Client):
    assert api.get("/version").json() == {"version": api.get("/openapi.json").json()["info"]["version"]}


def test_what_is_read_is_compressed_where_that_helps(api: httpx.Client, painter):
    job = api.post("/generate", json={"model": "toy", "num_images": 40}).headers["x-ebbtide-job"]
    for path, smaller in (
        (f"/jobs/{job}", True),
        ("/metrics", True),
        ("/openapi.json", True),
        ("/livez", False),
        (f"/jobs/{job}/images/0", False),
    ):
        plain = api.get(path, headers={"Accept-Encoding": "identity"})
        packed = api.get(path, headers={"Accept-Encoding": "gzip"})
        assert ("content-encoding" in packed.headers) is smaller, path
        assert "content-encoding" not in plain.headers
        if smaller:
            assert int(packed.headers["content-length"]) < len(plain.content) / 2
            assert "accept-encoding" in packed.headers["vary"].lower()
        if path != "/metrics":
            assert packed.content == plain.content
        head = api.head(path, headers={"Accept-Encoding": "gzip"})
        assert (head.status_code, head.content) == (200, b"")
