"""Unnormalised densities over latents, as energies: one target a file, and the folder is the registry."""

import pkgutil

_NAMES = tuple(sorted(file.name.replace("_", "-") for file in pkgutil.iter_modules(__path__) if file.name != "base"))


def names() -> tuple[str, ...]:
    """Every target there is, by the name of its file; costs no torch."""
    return _NAMES
