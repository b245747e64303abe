"""The normal density with the scale that maximises the likelihood of the data."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class OptimalNormal(dist.TorchDistribution):
    """p(x) = Normal(x; m, s^2), where s^2 is computed from the mean of (x - m)^2 over all values scored together.

    The result is not a normalised density, because s depends on x. Samples use the scale that was known before.

    Args:
        loc: m.
        scale: the value of s that is known without x; used for samples.
        estimate: a function from the mean squared residual, of shape (), to s.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import OptimalNormal
        >>> p = OptimalNormal(torch.zeros(2), torch.tensor(1.0), estimate=torch.sqrt)
        >>> p.log_prob(torch.tensor([2.0, -2.0]))  # s = 2: -1/2 - log 2 - log(2 pi) / 2
        tensor([-2.1121, -2.1121])
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.real
    has_rsample = True

    def __init__(
        self, loc: Tensor, scale: Tensor, estimate: Callable[[Tensor], Tensor], validate_args: bool | None = None
    ) -> None:
        self.loc, self.scale, self.estimate = loc, scale, estimate
        super().__init__(loc.shape, validate_args=validate_args)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        with torch.no_grad():  # at the best s the derivative with respect to s is 0, so it adds nothing to the gradient
            scale = self.estimate((value - self.loc).square().mean())
        return dist.Normal(self.loc, scale, validate_args=False).log_prob(value)

    @property
    def mean(self) -> Tensor:
        return self.loc

    @property
    def variance(self) -> Tensor:
        return self.scale.square().expand(self.loc.shape)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        return dist.Normal(self.loc, self.scale, validate_args=False).rsample(sample_shape)
