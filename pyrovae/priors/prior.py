"""The contract of a prior."""

from collections.abc import Callable
from typing import Any, ClassVar, Self

import pyro.distributions as dist
from torch import Tensor, nn


class Prior(nn.Module):
    """p(z): a module that is built from the shapes of z and x and returns a distribution over z.

    Derive your own prior from this class. Its `__init__` takes the latent shape and the event shape as the first two
    arguments and sets `latent_shape`; `forward` returns the distribution.

    Attributes:
        latent_shape: event shape of z.
        space: the values that z may take; the prior and the guide must have the same space.
        ready: False until `initialise` is called with training data, for a prior that needs them.
        initial_rows: number of rows of training data that `initialise` needs.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.priors import Prior
        >>> class Uniform(Prior):
        ...     def __init__(self, latent_shape, event_shape=None):
        ...         super().__init__()
        ...         self.latent_shape = latent_shape
        ...
        ...     def forward(self, encoding=None):
        ...         return dist.Uniform(torch.zeros(self.latent_shape), 2.0).to_event(1)
        >>> round(Uniform((3,))().log_prob(torch.ones(3)).item(), 4)  # -3 log 2
        -2.0794
    """

    REQUIRED: ClassVar = {"latent_shape": "the event shape of z"}

    latent_shape: tuple[int, ...]
    space: str = "all real vectors"
    ready: bool = True
    initial_rows: int = 0

    def forward(self, encoding: Callable[[Tensor], Any] | None = None) -> dist.TorchDistribution:
        """p(z), with batch shape (). A prior made of q(z|x), such as the VampPrior, calls `encoding`: x -> q(z|x)."""
        raise NotImplementedError

    def initialise(self, x: Tensor) -> Self:
        """Initialise from training data x (N, *event_shape); only a prior that is not `ready` needs it."""
        return self
