"""Binary cross-entropy of grey values."""

import pyro.distributions as dist
from torch.distributions import constraints


class SoftBernoulli(dist.Bernoulli):
    """score(x) = x log p + (1 - x) log(1 - p), for x in [0, 1]: no density, for it does not integrate to 1.

    Samples are binary: they are those of the Bernoulli.
    """

    support = constraints.unit_interval
