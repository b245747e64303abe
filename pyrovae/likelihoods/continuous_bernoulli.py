"""The continuous Bernoulli likelihood."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks, distributions
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import UNIT_INTERVAL


class ContinuousBernoulli(Likelihood):
    """p(x|h) = prod_i h_i e^(h_i x_i) / (e^h_i - 1), for x_i in [0, 1].  (Loaiza-Ganem & Cunningham 2019)

    This is the binary cross-entropy of grey values, normalised to a density. Its mean is 1 / (1 - e^-h) - 1 / h, not
    sigmoid(h).

    Args:
        event_shape: event shape of x.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import ContinuousBernoulli
        >>> p = ContinuousBernoulli(event_shape=1)(torch.tensor([2.0]))
        >>> round(p.mean.item(), 4)  # 1 / (1 - e^-2) - 1 / 2
        0.6565
    """

    measure = UNIT_INTERVAL
    advice = ". Divide by the largest value, or choose a likelihood for real values (likelihoods.Normal)"

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return distributions.ContinuousBernoulli(h).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
