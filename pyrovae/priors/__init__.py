"""Priors p(z): modules that return a distribution over latents. Each is built from the latents' shape.

A prior is called with the encoding x -> q(z|x), which only priors made of encodings need.
"""

from pyrovae.priors.standard_normal import StandardNormal

__all__ = ["StandardNormal"]
