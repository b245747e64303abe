"""Values of which some are fixed."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor


class Clamped(dist.TorchDistribution):
    """p(x) = prod_{i seen} [x_i = s_i] prod_{i unseen} q(x_i), for independent numbers.

    Args:
            whole: q.
            seen: True for the seen values.
            s: the seen values; other entries are ignored.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.distributions import Clamped
        >>> p = Clamped(dist.Normal(torch.zeros(2), 1.0), torch.tensor([True, False]), torch.tensor([3.0, 0.0]))
        >>> p.mean, p.log_prob(torch.tensor([3.0, 0.0]))
        (tensor([3., 0.]), tensor([ 0.0000, -0.9189]))
    """

    arg_constraints: ClassVar = {}

    def __init__(self, whole: Any, seen: Tensor, s: Tensor, validate_args: bool | None = None) -> None:
        self.whole, self.seen, self.s = whole, seen, s
        super().__init__(whole.batch_shape, validate_args=validate_args)

    @property
    def support(self) -> Any:
        return self.whole.support

    def log_prob(self, value: Tensor) -> Tensor:
        seen = torch.zeros_like(value).masked_fill(value != self.s, -torch.inf)
        return torch.where(self.seen, seen, self.whole.log_prob(value))

    @property
    def mean(self) -> Tensor:
        return torch.where(self.seen, self.s, self.whole.mean)

    @property
    def variance(self) -> Tensor:
        return torch.where(self.seen, 0, self.whole.variance)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return torch.where(self.seen, self.s, self.whole.sample(sample_shape))
