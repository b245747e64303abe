"""Values of which some are missing."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints


class OrMissing(constraints.Constraint):
    """NaN, or a value in the constraint."""

    def __init__(self, observed: constraints.Constraint) -> None:
        self.observed = observed
        super().__init__()

    @property
    def is_discrete(self) -> bool:  # type: ignore[override]
        return self.observed.is_discrete

    def check(self, value: Tensor) -> Tensor:
        return value.isnan() | self.observed.check(value)

    def __repr__(self) -> str:
        return f"{self.observed}, or NaN where missing"


class NaNMasked(dist.TorchDistribution):
    """log p(x) = [x is not NaN] log q(x), for independent values: a missing value is summed or integrated out.

    Args:
        whole: q, a distribution of numbers whose support contains 0 or 1/2.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.distributions import NaNMasked
        >>> NaNMasked(dist.Normal(torch.zeros(2), 1.0)).log_prob(torch.tensor([0.0, torch.nan]))  # -log(2 pi) / 2 and 0
        tensor([-0.9189,  0.0000])
    """

    arg_constraints: ClassVar = {}

    def __init__(self, whole: Any, validate_args: bool | None = None) -> None:
        self.whole = whole
        super().__init__(whole.batch_shape, validate_args=validate_args)

    @constraints.dependent_property(event_dim=0)
    def support(self) -> OrMissing:
        return OrMissing(self.whole.support)

    def log_prob(self, value: Tensor) -> Tensor:
        missing = value.isnan()
        # A score of NaN has a NaN gradient even if it is dropped later, so a value in the support replaces each NaN.
        zero = torch.zeros_like(value)
        stand_in = torch.where(self.whole.support.check(zero), zero, 0.5)
        return torch.where(missing, 0, self.whole.log_prob(torch.where(missing, stand_in, value)))

    @property
    def mean(self) -> Tensor:
        return self.whole.mean

    @property
    def variance(self) -> Tensor:
        return self.whole.variance

    def sample(self, sample_shape: Any = ()) -> Tensor:
        return self.whole.sample(sample_shape)
