"""Densities with log-gammas, scored in float64: for large parameters their differences lose all digits in float32."""

from typing import Any, ClassVar

import pyro.distributions as dist
from torch import Tensor


class _InDouble:
    plain: ClassVar[Any]
    parameters: ClassVar[tuple[str, ...]]

    def log_prob(self: Any, value: Tensor) -> Tensor:
        """log p(x), computed in float64 and returned in the dtype of the parameters."""
        if self._validate_args:
            self._validate_sample(value)
        given = {name: getattr(self, name) for name in self.parameters}
        exact = self.plain(**{name: each.double() for name, each in given.items()}, validate_args=False)
        return exact.log_prob(value.double()).to(given[self.parameters[0]].dtype)


class Beta(_InDouble, dist.Beta):
    """p(x) = x^(a - 1) (1 - x)^(b - 1) / B(a, b).

    Example:
        >>> import torch
        >>> from pyrovae.distributions.in_double import Beta
        >>> Beta(torch.tensor(2.0), torch.tensor(1.0)).log_prob(torch.tensor(0.5))  # log(2 x) at x = 1/2
        tensor(0.)
    """

    plain, parameters = dist.Beta, ("concentration1", "concentration0")


class NegativeBinomial(_InDouble, dist.NegativeBinomial):
    """P(x) = C(x + r - 1, x) (1 - p)^r p^x, with p = sigmoid(logits).

    Example:
        >>> import torch
        >>> from pyrovae.distributions import NegativeBinomial
        >>> p = NegativeBinomial(torch.tensor(2.0), logits=torch.tensor(0.0))
        >>> p.log_prob(torch.tensor(1.0)).exp()  # C(2, 1) / 2^3
        tensor(0.2500)
    """

    plain, parameters = dist.NegativeBinomial, ("total_count", "logits")


class StudentT(_InDouble, dist.StudentT):
    """p(x) = Gamma((df + 1) / 2) / (Gamma(df / 2) s (pi df)^(1/2)) (1 + t^2 / df)^(-(df + 1) / 2), t = (x - m) / s.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import StudentT
        >>> StudentT(torch.tensor(4.0), torch.tensor(0.0), torch.tensor(1.0)).log_prob(torch.tensor(0.0)).exp()  # 3/8
        tensor(0.3750)
    """

    plain, parameters = dist.StudentT, ("df", "loc", "scale")
