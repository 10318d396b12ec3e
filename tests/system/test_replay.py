"""POST /replay on real pictures: the same bytes, or what is missing or differs; hostile files cost nothing."""

import io
import json
import struct
import zlib

import pytest
from PIL import Image, PngImagePlugin

from models.images import read_text

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]
CHAINS = {"model": "tiny", "sampler": "ddls", "mcmc": {"kernel": "mala", "steps": 20}, "seed": 2**53 + 1}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_text(png: bytes, **changed: str) -> bytes:
    """The picture saved again with other text."""
    info = PngImagePlugin.PngInfo()
    for name, value in {**read_text(png), **changed}.items():
        info.add_itxt(name, value)
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def replay(house, png: bytes):
    return house.client.post("/replay", content=png, headers={"Content-Type": "image/png"})


def refused(house, png: bytes) -> tuple[int, str, list[str]]:
    problem = replay(house, png).json()
    return problem["status"], problem["type"].rpartition(":")[2], [fault["field"] for fault in problem.get("errors", ())]


def test_a_grid_and_each_of_its_images_come_back_byte_for_byte(tiny_house):
    tiny_house.start_generation()
    made = tiny_house.client.post("/generate", json={**CHAINS, "num_images": 3})
    files = [made.content, *tiny_house.images(made.headers["x-ebbtide-job"])]
    for png in files:
        answer = replay(tiny_house, png)
        assert (answer.status_code, answer.content) == (200, png)
        assert answer.headers["x-ebbtide-seed"] == str(2**53 + 1)
    assert tiny_house.client.get(answer.headers["content-location"]).content == files[-1]
    prior = tiny_house.client.post("/generate", json={"model": "tiny", "sampler": "prior"}).content
    assert replay(tiny_house, prior).content == prior


def test_what_is_missing_or_differs_is_named(tiny_house):
    tiny_house.start_generation()
    png = tiny_house.client.post("/generate", json=CHAINS).content
    request = json.loads(read_text(png)["ebbtide"])

    def asking(**changed):
        return refused(tiny_house, with_text(png, ebbtide=json.dumps({**request, **changed})))

    assert asking(model="gone") == (422, "not-replayable", ["model"])
    assert asking(version=7) == (422, "not-replayable", ["model"])
    assert asking(digest="0" * 64) == (422, "not-replayable", ["digest"])
    assert asking(sampler="latent-ebm") == (422, "not-replayable", ["sampler"])
    assert asking(mcmc=None) == (422, "not-replayable", ["mcmc"])
    assert asking(num_images=100_000)[:2] == (422, "not-replayable")
    assert asking(mcmc={**request["mcmc"], "steps": 10**9})[:2] == (422, "not-replayable")
    assert asking(unheard_of=1)[:2] == (422, "not-replayable")
    assert refused(tiny_house, with_text(png, image="3")) == (422, "not-replayable", ["image"])
    elsewhere = {**json.loads(read_text(png)["contract"]), "device": "NVIDIA H100"}
    assert refused(tiny_house, with_text(png, contract=json.dumps(elsewhere))) == (409, "replay-differs", ["contract.device"])
    assert refused(tiny_house, with_text(png, software="ebbtide 0.0.1")) == (409, "replay-differs", ["software"])
    assert refused(tiny_house, png[:-20]) == (409, "replay-differs", [])
    problem = replay(tiny_house, with_text(png, software="ebbtide 0.0.1")).json()
    assert tiny_house.client.get(f"{problem['job']}/images/0").content == png  # what was made again is there


def test_hostile_files_are_refused_before_anything_runs(tiny_house):
    header = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0))
    bomb = header + chunk(b"iTXt", b"ebbtide\0\1\0\0\0" + zlib.compress(bytes(50_000_000))) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    gif = io.BytesIO()
    Image.new("L", (4, 4)).save(gif, "GIF")
    plain = io.BytesIO()
    Image.new("L", (4, 4)).save(plain, "PNG")
    for content in (b"", b"\x89PNG\r\n\x1a\n", header, bomb, gif.getvalue(), plain.getvalue(), b"{}", bytes(100_000)):
        assert refused(tiny_house, content)[:2] == (422, "no-request")
    assert refused(tiny_house, bytes((16 << 20) + 1))[:2] == (413, "too-large")
    answer = tiny_house.client.post("/replay", content=b"", headers={"Accept": "application/json"})
    assert answer.status_code == 406
    assert not tiny_house.jobs()
