"""The Beta likelihood."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions import OpenBeta
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import UNIT_INTERVAL


class Beta(Likelihood):
    """p(x|h) = prod_i Beta(x_i; c_i m_i, c_i (1 - m_i)), for 0 < x_i < 1; h = (logit m, log c/2): uniform at h = 0.

    m is the mean, c the concentration; the variance is m (1 - m) / (1 + c).  (Ferrari & Cribari-Neto 2004)

    Args:
        event_shape: event shape of x.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Beta
        >>> p = Beta(event_shape=3)(torch.zeros(2, 3))  # uniform at h = 0
        >>> p.log_prob(torch.tensor([0.1, 0.5, 0.9])).abs().item() < 1e-5
        True
    """

    measure = UNIT_INTERVAL
    advice = (
        ". A Beta density is 0 or infinite at 0 and 1, so bytes need noise: x = (k + u)/256, u uniform in (0, 1) "
        "(data.load(..., binarize='dequantize'))"
    )

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.param_shape = (2, *self.event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        logit, log_half = h.unbind(-len(self.param_shape))
        concentration = 2 * log_half.exp()
        # A shape parameter that rounds to 0 is invalid, and its log-gamma has no finite gradient.
        a, b = ((concentration * side.sigmoid()).clamp(min=1e-6) for side in (logit, -logit))
        return OpenBeta(a, b).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
