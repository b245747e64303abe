"""Guide families q(z|h): modules that turn the encoder's output h into a distribution over latents.

Each is built from the latents' shape; `param_shape` is the shape that h must have.
"""

from pyrovae.guides.delta import Delta
from pyrovae.guides.diagonal_normal import DiagonalNormal
from pyrovae.guides.family import GuideFamily as GuideFamily  # the contract; no member
from pyrovae.guides.full_rank_normal import FullRankNormal
from pyrovae.guides.iaf import IAF
from pyrovae.guides.low_rank_normal import LowRankNormal
from pyrovae.guides.mixture import Mixture
from pyrovae.guides.neural_spline import NeuralSpline
from pyrovae.guides.planar import Planar
from pyrovae.guides.power_spherical import PowerSpherical

__all__ = [
    "IAF",
    "Delta",
    "DiagonalNormal",
    "FullRankNormal",
    "LowRankNormal",
    "Mixture",
    "NeuralSpline",
    "Planar",
    "PowerSpherical",
]
