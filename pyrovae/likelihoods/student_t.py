"""The Student t likelihood."""

from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
from torch import Tensor

import pyrovae.distributions as densities
from pyrovae import checks
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import REAL
from pyrovae.likelihoods.scale import Fixed, One, scaling


class StudentT(Likelihood):
    """p(x|h) = prod_i c (1 + t_i^2 / df)^(-(df + 1) / 2) / s_i, t_i = (x_i - m_i) / s_i, for real x with outliers.

    Its mean is m, its variance s^2 df / (df - 2). As df grows it tends to the normal likelihood.  (Lange et al. 1989)

    Args:
        event_shape: event shape of x.
        df: degrees of freedom, above 2; the initial value if df is learned.
        learn_df: learn one df for all values.
        scale, learn, min_scale: the options of s, as in `Normal`, without "optimal".

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import StudentT
        >>> p = StudentT(event_shape=1, df=4.0, scale=1.0)(torch.zeros(1))
        >>> round(p.log_prob(torch.zeros(1)).exp().item(), 4), round(p.variance.item(), 4)  # 3/8 and 4 / (4 - 2)
        (0.375, 2.0)
    """

    measure = REAL
    advice = ""

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        df: float = 4.0,
        learn_df: bool = False,
        scale: float = 1.0,
        learn: Literal["one", "per-value", "per-input"] | None = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.scaling = scaling(self.event_shape, scale, learn, min_scale)
        self.param_shape = self.scaling.param_shape
        if checks.number("df", df) <= 2:
            raise ValueError(f"df: expected a number above 2, because the variance is not finite otherwise, found {df}")
        self.degrees = (One if learn_df else Fixed)(self.event_shape, df, 2.0)

    @property
    def df(self) -> Tensor:
        """The degrees of freedom, of shape ()."""
        return self.degrees.value

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return densities.StudentT(self.df.to(h.dtype), *self.scaling(h)).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, df={self.df.item():g}, learn_df={isinstance(self.degrees, One)}"
