"""Moved."""

from models.images import encode_png, grid, read_text

__all__ = ["encode_png", "grid", "read_text"]
