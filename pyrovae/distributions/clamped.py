"""Values of which some are known."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor


class Clamped(dist.TorchDistribution):
    """p(x) = prod_{i seen} [x_i = s_i] prod_{i unseen} q(x_i), for independent numbers.

    Args:
        whole: q.
        seen: where x is seen.
        s: what it is there.
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
