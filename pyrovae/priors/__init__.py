"""Priors p(z): modules that return a distribution over latents.

Each is built from the latents' shape and the data's, and called with the encoding x -> q(z|x); only priors made of
encodings need the last two.
"""

from pyrovae.priors.standard_normal import StandardNormal

__all__ = ["StandardNormal"]
