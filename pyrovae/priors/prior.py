"""The contract of a prior."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import pyro.distributions as dist
from torch import Tensor, nn


class Prior(nn.Module):
    """p(z): a module that is built from the shapes of z and x and returns a distribution over z.

    A prior of your own is a subclass. Its `__init__` takes the latent shape and the event shape as the first two
    arguments and sets `latent_shape`; `forward` returns the distribution.

    Attributes:
        latent_shape: event shape of z.
        space: the values that z may take; those of the prior and of the guide have to agree.
        ready: False until `initialise` has seen training data, for a prior that needs them.
        initial_rows: how many rows of training data `initialise` takes.
    """

    REQUIRED: ClassVar = {"latent_shape": "the event shape of z"}

    latent_shape: tuple[int, ...]
    space: str = "all real vectors"
    ready: bool = True
    initial_rows: int = 0

    def forward(self, encoding: Callable[[Tensor], Any] | None = None) -> dist.TorchDistribution:
        """p(z), with batch shape (). A prior made of q(z|x), as the VampPrior, calls `encoding`, x -> q(z|x)."""
        raise NotImplementedError

    def initialise(self, x: Tensor) -> Self:
        """Start from training data x (N, *event_shape); only asked of a prior that is not `ready`."""
        return self
