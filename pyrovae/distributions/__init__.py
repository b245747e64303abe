"""Densities that torch and Pyro lack, one in each file."""

from pyrovae.distributions.categorical_levels import CategoricalLevels
from pyrovae.distributions.circular import Circular, UniformAngle
from pyrovae.distributions.clamped import Clamped
from pyrovae.distributions.concatenated import Concatenated
from pyrovae.distributions.continuous_bernoulli import ContinuousBernoulli
from pyrovae.distributions.diagonal_mixture import DiagonalMixture
from pyrovae.distributions.discretized_logistic import DiscretizedLogistic
from pyrovae.distributions.in_double import NegativeBinomial, StudentT
from pyrovae.distributions.levels import Levels
from pyrovae.distributions.nan_masked import NaNMasked
from pyrovae.distributions.open_beta import OpenBeta
from pyrovae.distributions.optimal_normal import OptimalNormal
from pyrovae.distributions.planar import Planar
from pyrovae.distributions.soft_bernoulli import SoftBernoulli
from pyrovae.distributions.spherical import PowerSpherical, UniformSphere

__all__ = [
    "CategoricalLevels",
    "Circular",
    "Clamped",
    "Concatenated",
    "ContinuousBernoulli",
    "DiagonalMixture",
    "DiscretizedLogistic",
    "Levels",
    "NaNMasked",
    "NegativeBinomial",
    "OpenBeta",
    "OptimalNormal",
    "Planar",
    "PowerSpherical",
    "SoftBernoulli",
    "StudentT",
    "UniformAngle",
    "UniformSphere",
]
