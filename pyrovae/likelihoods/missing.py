"""The likelihood of data with holes."""

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
    """p(x|h) = prod_{i observed} p(x_i|h), with NaN for what is missing: it leaves the score.  (Mattei & Frellsen 2019)

    Samples and means are whole, so that the mean imputes. Right where the values that are missing do not depend on
    what they would have been, given the others.

    Args:
        event_shape: event shape of x.
        of: the likelihood of whole data: a class, or functools.partial of one.
    """

    missing = True

    def __init__(self, event_shape: Sequence[int] | int, of: Callable[..., Any] = Normal) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        if not callable(of):
            raise ValueError(f"of: expected a likelihood to build, as Normal, found {of!r}")
        self.of = of(self.event_shape)
        if any(isinstance(part, Optimal) for part in self.of.modules()):
            raise ValueError("of: expected independent values, found learn='optimal', whose scale is made of them all")
        self.param_shape, self.advice = self.of.param_shape, self.of.advice
        self.measure = self.of.measure.noted("of the entries present")

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return NaNMasked(self.of(h).base_dist).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
