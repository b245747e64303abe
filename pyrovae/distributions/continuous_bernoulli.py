"""The continuous Bernoulli density, exact for every logit."""

import math
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints
from torch.distributions.utils import clamp_probs

# log(sinh(h/2) / (h/2)) = sum_k B_2k h^2k / (2k (2k)!); for |h| < 1 the tenth term is less than the rounding error of
# the first in float64.
_BERNOULLI = [1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6, -3617 / 510, 43867 / 798, -174611 / 330]
_SERIES = [number / (2 * k * math.factorial(2 * k)) for k, number in enumerate(_BERNOULLI, 1)]


class ContinuousBernoulli(dist.TorchDistribution):
    """p(x|h) = h e^(hx) / (e^h - 1) for x in [0, 1], uniform at h = 0.  (Loaiza-Ganem & Cunningham 2019)

    It is a truncated exponential. torch's version clamps sigmoid(h) and approximates near h = 0: in float32 its
    log-density is off by .23 nats at h = 20, and its gradient by 3e-4 at h = .004.

    Args:
        logits: h.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import ContinuousBernoulli
        >>> p = ContinuousBernoulli(torch.tensor([0.0, 2.0]))
        >>> p.log_prob(torch.tensor([0.3, 1.0])).exp()  # 1 and 2 e^2 / (e^2 - 1)
        tensor([1.0000, 2.3130])
    """

    arg_constraints: ClassVar = {"logits": constraints.real}
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        h, a = self.logits, self._magnitude()
        from_dense_edge = torch.where(h > 0, 1 - value, value)
        exact = a.log() - torch.log(-torch.expm1(-a)) - a * from_dense_edge
        return torch.where(self._small(), h * (value - 0.5) - self._powers(0), exact)

    @property
    def mean(self) -> Tensor:
        a = self._magnitude()
        exact = (0.5 / torch.tanh(a / 2) - 1 / a) * self.logits.sign()
        return 0.5 + torch.where(self._small(), self._powers(1), exact)

    @property
    def variance(self) -> Tensor:
        a = self._magnitude()
        exact = 1 / a.square() - (-a).exp() / torch.expm1(-a).square()
        return torch.where(self._small(), self._powers(2), exact)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(sample_shape)
        return self.icdf(torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device))

    def icdf(self, value: Tensor) -> Tensor:
        """The quantile function: x = log(1 + value (e^h - 1)) / h, computed from the denser end of [0, 1]."""
        h, u = self.logits, clamp_probs(value)
        # Here the quotient loses digits of the gradient; the error of the truncated series is as small as that loss.
        small = h.abs() < torch.finfo(h.dtype).eps ** 0.25
        a = torch.where(small, 1, h.abs())
        far = -torch.log1p(torch.where(h > 0, 1 - u, u) * torch.expm1(-a)) / a
        b, w = torch.where(small, h, 0), u * (1 - u)
        series = u + b * w / 2 + b.square() * w * (1 - 2 * u) / 6 + b**3 * w * (1 - 6 * w) / 24
        return torch.where(small, series, torch.where(h > 0, 1 - far, far)).clamp(0, 1)

    def _small(self) -> Tensor:
        return self.logits.abs() < 1

    def _magnitude(self) -> Tensor:
        """|h|, but 1 where the series is used: torch.where would pass on NaN gradients of the branch that it drops."""
        return torch.where(self._small(), 1, self.logits.abs())

    def _powers(self, derivative: int) -> Tensor:
        """The series, differentiated this many times."""
        h = torch.where(self._small(), self.logits, 0)
        total = torch.zeros_like(h)
        for k, c in reversed(list(enumerate(_SERIES, 1))):
            total = total * h.square() + math.perm(2 * k, derivative) * c
        return total * h ** (2 - derivative)
