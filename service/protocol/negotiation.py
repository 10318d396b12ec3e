"""Content negotiation: the media type from `Accept` (RFC 9110 §12.5.1), the time to wait from `Prefer` (RFC 7240)."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

QUALITY = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
PNG, WEBP, JSON, ZIP = "image/png", "image/webp", "application/json", "application/zip"
OCTETS = "application/octet-stream"  # a picture or ZIP for clients that know no media types of images
BINARY = {"schema": {"type": "string", "format": "binary"}}  # in OpenAPI
Answers = dict[int | str, dict[str, Any]]
PICTURE: Answers = {200: {"content": {PNG: BINARY, OCTETS: BINARY}}}  # of a route that answers with one
ANY_PICTURE: Answers = {200: {"content": {PNG: BINARY, WEBP: BINARY, OCTETS: BINARY}}}  # in either format


class Preference(NamedTuple):
    """How long to wait before answering 202, and the `Preference-Applied` header of the answer."""

    wait_s: float | None  # None: until the job ends
    applied: str | None


def preference(header: str | None) -> Preference:
    """`respond-async` does not wait, `wait=N` waits N seconds and wins over it; unknown preferences are ignored, as RFC 7240 requires."""
    wanted: dict[str, str] = {}
    for part in (header or "").split(","):
        name, _, value = part.partition(";")[0].partition("=")
        wanted.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = wanted.get("wait", "")
    if wait.isascii() and wait.isdecimal() and len(wait) < 10:
        return Preference(float(wait), f"wait={wait}")
    return Preference(0.0, "respond-async") if "respond-async" in wanted else Preference(None, None)


def acceptable(header: str | None, offered: Sequence[str]) -> str | None:
    """The offered media type with the highest quality, the first of equals; None where none is accepted."""
    if not header:
        return offered[0]
    ranges = [_range(part) for part in header.split(",") if part.strip()]
    qualities = {media: _quality(media, ranges) for media in offered}
    best = max(offered, key=lambda media: qualities[media])  # max keeps the first of equals
    return best if qualities[best] > 0 else None


def with_octets(accept: str | None, media: str) -> str:
    """The media type of a picture or ZIP, or that of any bytes where only that is accepted, or it is preferred."""
    return OCTETS if accept and acceptable(accept, (media, OCTETS)) == OCTETS else media


def _range(part: str) -> tuple[str, float]:
    """A media range and its quality; 0 where that is not 0 to 1 with at most three decimals (RFC 9110 §12.4.2)."""
    media, *parameters = (piece.strip().lower() for piece in part.split(";"))
    quality = next((value for name, _, value in (one.partition("=") for one in parameters) if name.strip() == "q"), "1").strip()
    return media, float(quality) if QUALITY.fullmatch(quality) else 0.0


def _quality(media: str, ranges: Sequence[tuple[str, float]]) -> float:
    """The quality of the most specific range that matches a media type."""
    for pattern in (media, media.partition("/")[0] + "/*", "*/*"):
        for accepted, quality in ranges:
            if accepted == pattern:
                return quality
    return 0.0
