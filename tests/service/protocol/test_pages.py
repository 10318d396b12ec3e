"""What a browser is told: whose host this is, what pages may load, and that /docs needs nobody else."""

import re
from urllib.parse import urlsplit

import httpx
import pytest


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "a b", ""])
def test_a_name_that_is_not_this_servers_is_refused_on_every_route(host, api: httpx.Client) -> None:
    for path in ("/", "/models", "/jobs", "/docs", "/livez"):
        answer = api.get(path, headers={"Host": host})
        assert answer.status_code in (400, 421), path
        assert answer.headers["content-type"].startswith("application/problem+json")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "[::1]", "192.168.1.20:8000"])
def test_loopback_and_addresses_need_no_setting(host, api: httpx.Client) -> None:
    assert api.get("/models", headers={"Host": host}).status_code == 200


def test_names_that_are_set_are_served(serve, settings) -> None:
    client = serve(settings.model_copy(update={"allowed_hosts": ("ebbtide.example",)}))
    assert client.get("/models", headers={"Host": "Ebbtide.example:443"}).status_code == 200
    assert client.get("/models", headers={"Host": "evil.example"}).status_code == 421
    assert 'ebbtide_rejected_total{reason="unknown-host"} 1.0' in client.get("/metrics").text
    anybody = serve(settings.model_copy(update={"allowed_hosts": ("*",)}))
    assert anybody.get("/models", headers={"Host": "evil.example"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/docs", "/models", "/models/toy/samples.png", "/nowhere", "/playground/page.js"])
def test_every_answer_has_the_headers_that_protect_browsers(path, api: httpx.Client) -> None:
    headers = api.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    policy = dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe-inline" not in policy.get("script-src", "")
    assert "unsafe-eval" not in policy.get("script-src", "")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_pages_load_only_from_here_and_what_they_load_is_there(path, api: httpx.Client) -> None:
    page = api.get(path)
    loaded = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="([^"]+)"', page.text)
    assert any(address.endswith(".js") for address in loaded)
    assert any(address.endswith(".css") for address in loaded)
    for address in loaded:
        assert not urlsplit(address).netloc
        if not address.startswith("data:"):
            assert api.get(address).status_code == 200, address
    inline = re.findall(r"<script>", page.text)
    assert len(inline) == page.headers["content-security-policy"].count("'sha256-")
