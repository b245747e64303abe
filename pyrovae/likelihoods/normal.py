"""The normal likelihood."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions import OptimalNormal
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import REAL
from pyrovae.likelihoods.scale import SCALES, Optimal, scaling


class Normal(Likelihood):
    """p(x|h) = Normal(x; m, diag(s^2)), for real x; h = m, or (m, v) if the decoder also returns the scale.

    -log p(x|h) = sum_i (x_i - m_i)^2 / (2 s_i^2) + log s_i + log(2 pi) / 2: the squared error, in nats.

    Args:
        event_shape: event shape of x.
        scale: s, in the units of x; the initial value if s is learned.
        learn: None keeps s fixed; "one" learns one s for all values; "per-value" learns one s for each pixel or column;
            "per-input" makes the decoder return one s for each value of each x; "optimal" uses the root mean squared
            error of the batch during training, and its running mean otherwise (Rybkin, Daniilidis & Levine 2021).
        min_scale: lower bound of a learned s. Without it the density of a constant pixel would grow without bound.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Normal
        >>> p = Normal(event_shape=2, scale=0.5)(torch.zeros(2))
        >>> round(p.log_prob(torch.tensor([1.0, 0.0])).item(), 4)  # -1 / (2 / 4) - 2 log(1/2) - log(2 pi)
        -2.4516
    """

    measure = REAL

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        scale: float = 1.0,
        learn: Literal["one", "per-value", "per-input", "optimal"] | None = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.scaling = scaling(self.event_shape, scale, learn, min_scale, {**SCALES, "optimal": Optimal})
        self.param_shape = self.scaling.param_shape

    @property
    def scale(self) -> Tensor | None:
        """The scale s, of shape () or the event shape; None if it depends on the input."""
        return self.scaling.value

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        m, s = self.scaling(h)
        if self.training and isinstance(self.scaling, Optimal):
            return OptimalNormal(m, s, self.scaling.estimate).to_event(len(self.event_shape))
        return dist.Normal(m, s).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
