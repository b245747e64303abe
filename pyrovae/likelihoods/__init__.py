"""Likelihoods p(x|h): modules that turn the decoder's output h into a distribution over data.

Each is built from the event shape of x. `param_shape` is the shape that h must have, `measure` names what the
log-likelihood is a logarithm of: only numbers of one measure can be compared.
"""

from pyrovae.likelihoods.bernoulli import Bernoulli
from pyrovae.likelihoods.normal import Normal

__all__ = ["Bernoulli", "Normal"]
