"""The likelihood of data with missing values."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions import NaNMasked
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.normal import Normal
from pyrovae.likelihoods.scale import Optimal


class Missing(Likelihood):
    """p(x|h) = prod_{i observed} p(x_i|h); a missing value is NaN and adds nothing.  (Mattei & Frellsen 2019)

    Samples and means are complete, so you can impute by the mean. This is valid if values are missing at random: given
    the observed values, whether a value is missing does not depend on the value itself.

    Args:
        event_shape: event shape of x.
        of: the likelihood of complete data: a class, or functools.partial of one.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Missing, Normal
        >>> likelihood = Missing(event_shape=2, of=Normal)
        >>> p = likelihood(torch.zeros(2))
        >>> round(p.log_prob(torch.tensor([0.0, torch.nan])).item(), 4)  # -log(2 pi) / 2
        -0.9189
    """

    missing = True

    def __init__(self, event_shape: Sequence[int] | int, of: Callable[..., Any] = Normal) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        if not callable(of):
            raise ValueError(f"of: expected a likelihood class such as Normal, found {of!r}")
        self.of = of(self.event_shape)
        if any(isinstance(part, Optimal) for part in self.of.modules()):
            raise ValueError(
                "of: expected independent values, found learn='optimal', whose scale depends on all of them"
            )
        self.param_shape, self.advice = self.of.param_shape, self.of.advice
        self.measure = self.of.measure.noted("of the entries present")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return NaNMasked(self.of(h).base_dist).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
