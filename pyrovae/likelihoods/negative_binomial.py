"""The negative binomial likelihood."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae.distributions as densities
from pyrovae import checks
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.poisson import Poisson


class NegativeBinomial(Likelihood):
    """P(x|h) = prod_i C(x_i + r_i - 1, x_i) (r_i / (r_i + e^h_i))^r_i (e^h_i / (r_i + e^h_i))^x_i, for counts x_i.

    This is a Poisson distribution whose rate is gamma-distributed with mean e^h. The variance is e^h + e^2h / r; it
    exceeds that of a Poisson, and tends to it as r grows.  (Hilbe 2011)

    Args:
        event_shape: event shape of x.
        total_count: initial value of r, which is learned separately for each value.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import NegativeBinomial
        >>> p = NegativeBinomial(event_shape=1, total_count=2.0)(torch.zeros(1))
        >>> round(p.mean.item(), 4), round(p.variance.item(), 4)  # e^0 and e^0 + e^0 / 2
        (1.0, 1.5)
    """

    measure, advice = Poisson.measure, Poisson.advice

    def __init__(self, event_shape: Sequence[int] | int, total_count: float = 1.0) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)
        self.start = checks.positive("total_count", total_count)
        self.log_total_count = nn.Parameter(torch.full(self.event_shape, math.log(self.start)))

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        v = self.log_total_count.to(h.dtype)
        return densities.NegativeBinomial(v.exp(), logits=h - v).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, total_count={self.start:g}"
