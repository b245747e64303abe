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

    A Poisson whose rate is a gamma draw of mean e^h; the variance is e^h + e^2h / r, so that r measures how far the
    counts are from a Poisson's, which they become as r grows.  (Hilbe 2011)

    Args:
        event_shape: event shape of x.
        total_count: the start of r, which is learned for each value.
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
