"""Binary cross-entropy of grey values."""

import pyro.distributions as dist
from torch.distributions import constraints


class SoftBernoulli(dist.Bernoulli):
    """score(x) = x log p + (1 - x) log(1 - p), for x in [0, 1]: not a density, because it does not integrate to 1.

    Samples are binary, as those of the Bernoulli.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import SoftBernoulli
        >>> SoftBernoulli(logits=torch.tensor(0.0)).log_prob(torch.tensor([0.0, 0.3, 1.0]))  # -log 2
        tensor([-0.6931, -0.6931, -0.6931])
    """

    support = constraints.unit_interval
