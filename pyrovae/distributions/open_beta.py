"""The Beta density on the open interval."""

from typing import Any

from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs

from pyrovae.distributions.in_double import Beta


class _OpenUnitInterval(constraints.Constraint):
    lower_bound, upper_bound = 0.0, 1.0

    def check(self, value: Tensor) -> Tensor:
        return (value > 0) & (value < 1)

    def __repr__(self) -> str:
        return "0 < x < 1"


class OpenBeta(Beta):
    """p(x) = x^(a - 1) (1 - x)^(b - 1) / B(a, b), for 0 < x < 1: 0 and 1 are outside of its support.

    At 0 and 1 a Beta density is 0 or infinite. A sample that rounds to 0 or 1 is moved to the nearest number inside.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import OpenBeta
        >>> p = OpenBeta(torch.tensor(2.0), torch.tensor(1.0))
        >>> p.mean, p.support.check(torch.tensor([0.0, 0.5]))  # a / (a + b)
        (tensor(0.6667), tensor([False,  True]))
    """

    support: Any = _OpenUnitInterval()

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return clamp_probs(super().rsample(sample_shape))
