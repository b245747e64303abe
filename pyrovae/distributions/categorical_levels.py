"""The categorical distribution on a grid of grey levels."""

from typing import Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from pyrovae.distributions.levels import Levels


class CategoricalLevels(dist.TorchDistribution):
    """P(x = k / (levels - 1)) = softmax(h)_k.

    Args:
        logits: h, (..., levels).

    Example:
        >>> import torch
        >>> from pyrovae.distributions import CategoricalLevels
        >>> p = CategoricalLevels(torch.zeros(3))  # levels 0, 1/2, 1
        >>> p.mean, p.log_prob(torch.tensor(0.5)).exp()
        (tensor(0.5000), tensor(0.3333))
    """

    arg_constraints: ClassVar = {"logits": constraints.independent(constraints.real, 1)}

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.logits = logits
        self.levels = Levels(logits.shape[-1])
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=0)
    def support(self) -> Levels:
        return self.levels

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        k = self.levels.nearest(value).long().clamp(0, self.levels.last)  # a NaN must not become an invalid index
        log_mass = self.logits.log_softmax(-1)
        shape = torch.broadcast_shapes(k.shape, self.batch_shape)
        return log_mass.expand(*shape, -1).gather(-1, k.expand(shape)[..., None])[..., 0]

    @property
    def mean(self) -> Tensor:
        return self.logits.softmax(-1) @ self.levels.values(self.logits)

    @property
    def variance(self) -> Tensor:
        distance = self.levels.values(self.logits) - self.mean[..., None]
        return (self.logits.softmax(-1) * distance.square()).sum(-1)

    def sample(self, sample_shape: Any = ()) -> Tensor:
        k = dist.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return k.to(self.logits.dtype) / self.levels.last
