"""Architectures, one a file: plain modules, as published; what training adds to them (spectral norm) is the family's business."""
