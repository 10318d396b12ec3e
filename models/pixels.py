"""Images in [-1, 1] to pixels: the one place where rounding happens."""

import numpy as np
from torch import Tensor


def to_pixels(images: Tensor) -> np.ndarray:
    """(rows, channels, height, width) in [-1, 1] -> uint8 (rows, height, width, channels)."""
    scaled = (images.clamp(-1, 1) + 1) * 127.5
    pixels: np.ndarray = scaled.round().byte().permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels
