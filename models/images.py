"""Tensors to pixels, pixels to grids and PNG, and the text a PNG carries; the same pixels and text always give the same bytes."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, PngImagePlugin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

GUTTER = 2  # pixels between the images of a grid
COMPRESSION = 1  # zlib's fastest: the file grows a little, encoding takes a third of the time


def to_pixels(images: Tensor) -> np.ndarray:
    """(rows, channels, height, width) in [-1, 1] -> uint8 (rows, height, width, channels): the one place where rounding happens."""
    from models.device import read  # not above, because encoding needs no torch

    scaled = (images.clamp(-1, 1) + 1) * 127.5
    pixels: np.ndarray = read(scaled.round().byte().permute(0, 2, 3, 1).contiguous()).numpy()
    return pixels


def grid(images: np.ndarray) -> np.ndarray:
    """Lays images out near-square with thin dark gutters: uint8 (n, height, width, channels) -> (rows, columns, channels)."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * (height + GUTTER) - GUTTER, columns * (width + GUTTER) - GUTTER, channels), np.uint8)
    for index, image in enumerate(images):
        top, left = (index // columns) * (height + GUTTER), (index % columns) * (width + GUTTER)
        sheet[top : top + height, left : left + width] = image
    return sheet


def encode_png(image: np.ndarray, text: Mapping[str, str]) -> bytes:
    """PNG of a grey or RGB image, uint8 (height, width, 1 or 3), with text chunks in the order given."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_itxt(key, value)
    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, "PNG", pnginfo=chunks, compress_level=COMPRESSION)
    return file.getvalue()


def read_text(png: bytes) -> dict[str, str]:
    """The text chunks of a PNG. Raises ValueError where it is none."""
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            image.load()
            return {key: str(value) for key, value in getattr(image, "text", {}).items()}
    except (OSError, SyntaxError) as error:
        raise ValueError(f"not a PNG: {error}") from error
