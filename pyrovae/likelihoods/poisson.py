"""The Poisson likelihood."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import COUNTS


class Poisson(Likelihood):
    """P(x|h) = prod_i e^(h_i x_i - e^h_i) / x_i!, for counts x_i = 0, 1, 2, ...; h are log-rates, from -60 to 20.

    A log-rate outside these bounds is clamped to them: otherwise the first steps on large counts would overflow.

    Args:
        event_shape: event shape of x.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Poisson
        >>> p = Poisson(event_shape=2)(torch.zeros(2))  # rate e^0
        >>> round(p.log_prob(torch.tensor([0.0, 2.0])).item(), 4)  # -2 - log 2
        -2.6931
    """

    measure = COUNTS
    advice = (
        ". Counts are non-negative integers: do not scale or centre them; use an encoder of "
        "their logarithms (networks.Log1p)"
    )

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(h.clamp(-60, 20).exp()).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
