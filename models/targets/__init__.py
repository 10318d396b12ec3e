"""Unnormalised densities over latents, as energies: one target a file."""
