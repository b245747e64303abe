"""The Laplace likelihood."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import REAL
from pyrovae.likelihoods.scale import scaling


class Laplace(Likelihood):
    """p(x|h) = prod_i e^(-|x_i - m_i| / s_i) / (2 s_i), for real x: the absolute error, in nats.

    Args:
        event_shape: event shape of x.
        scale, learn, min_scale: the options of s, the mean absolute error; as in `Normal`, without "optimal".

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Laplace
        >>> p = Laplace(event_shape=2, scale=1.0)(torch.zeros(2))
        >>> round(p.log_prob(torch.tensor([1.0, -2.0])).item(), 4)  # -3 - 2 log 2
        -4.3863
    """

    measure = REAL
    advice = ""

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        scale: float = 1.0,
        learn: Literal["one", "per-value", "per-input"] | None = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.scaling = scaling(self.event_shape, scale, learn, min_scale)
        self.param_shape = self.scaling.param_shape

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(*self.scaling(h)).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
