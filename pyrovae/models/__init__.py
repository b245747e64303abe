"""Models: one generative program a file, and its guide beside it."""

from pyrovae.models.vae import VAE

__all__ = ["VAE"]
