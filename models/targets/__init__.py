"""Unnormalised densities over latents, as energies: one target a file, and the folder is the registry."""

from models import registry

_NAMES = registry.names(__path__)


def names() -> tuple[str, ...]:
    """Every target there is, by the name of its file; costs no torch."""
    return _NAMES
