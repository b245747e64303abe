"""The normal density with the scale that fits its data best."""

from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class OptimalNormal(dist.TorchDistribution):
    """p(x) = Normal(x; m, s^2), where s^2 is made from the mean of (x - m)^2 over all that is scored at once.

    Its score is no density over the whole, for s has seen x; sampling takes the scale known before.

    Args:
        loc: m.
        scale: s, as far as it is known without x.
        estimate: from the mean squared residual, of shape (), to s.
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
        with torch.no_grad():  # at the best s the derivative by s is 0: it adds nothing to the ELBO's gradient
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
