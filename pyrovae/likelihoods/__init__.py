"""Likelihoods p(x|h): modules that turn the decoder's output h into a distribution over data.

`Likelihood` is their contract. Derive your own likelihood from it.
"""

from pyrovae.likelihoods.bernoulli import Bernoulli
from pyrovae.likelihoods.beta import Beta
from pyrovae.likelihoods.categorical_levels import CategoricalLevels
from pyrovae.likelihoods.columns import Columns
from pyrovae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pyrovae.likelihoods.discretized_logistic import DiscretizedLogistic
from pyrovae.likelihoods.discretized_logistic_mixture import DiscretizedLogisticMixture
from pyrovae.likelihoods.laplace import Laplace
from pyrovae.likelihoods.likelihood import Likelihood as Likelihood  # the contract; no member
from pyrovae.likelihoods.measure import Measure as Measure
from pyrovae.likelihoods.missing import Missing
from pyrovae.likelihoods.negative_binomial import NegativeBinomial
from pyrovae.likelihoods.normal import Normal
from pyrovae.likelihoods.one_hot_categorical import OneHotCategorical
from pyrovae.likelihoods.poisson import Poisson
from pyrovae.likelihoods.student_t import StudentT

__all__ = [
    "Bernoulli",
    "Beta",
    "CategoricalLevels",
    "Columns",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "DiscretizedLogisticMixture",
    "Laplace",
    "Missing",
    "NegativeBinomial",
    "Normal",
    "OneHotCategorical",
    "Poisson",
    "StudentT",
]
