"""Priors p(z): modules that return a distribution over latents.

A prior is built from the shape of the latents and of the data, and called with the encoding x -> q(z|x). Only a prior
made of encodings, such as the VampPrior, uses the shape of the data and the encoding.
"""

from pyrovae.priors.autoregressive_flow import AutoregressiveFlow
from pyrovae.priors.laplace import Laplace
from pyrovae.priors.mixture import Mixture
from pyrovae.priors.neural_spline import NeuralSpline
from pyrovae.priors.prior import Prior as Prior  # the contract; no member
from pyrovae.priors.standard_normal import StandardNormal
from pyrovae.priors.uniform_sphere import UniformSphere
from pyrovae.priors.vamp_prior import VampPrior

__all__ = [
    "AutoregressiveFlow",
    "Laplace",
    "Mixture",
    "NeuralSpline",
    "StandardNormal",
    "UniformSphere",
    "VampPrior",
]
