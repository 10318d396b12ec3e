"""Figures for sample quality, one a file."""
