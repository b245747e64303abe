"""The contract of a guide family."""

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn


class GuideFamily(nn.Module):
    """q(z|h): a module that is built from the shape of z and returns a distribution over z.

    Derive your own family from this class. Its `__init__` takes the latent shape as the first argument and sets the
    two attributes that have no default; `forward` returns the distribution. Families also serve as p(z|y).

    Attributes:
        latent_shape: event shape of z.
        param_shape: shape of h for one datum, a vector; the encoder returns h.
        space: the values that z may take; the prior and the guide must have the same space.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.guides import GuideFamily
        >>> class UnitNormal(GuideFamily):
        ...     def __init__(self, latent_shape):
        ...         super().__init__()
        ...         self.latent_shape = self.param_shape = (latent_shape,)
        ...
        ...     def forward(self, h):
        ...         return dist.Normal(h, 1.0).to_event(1)
        >>> round(UnitNormal(2)(torch.zeros(2)).log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    REQUIRED: ClassVar = {
        "latent_shape": "the event shape of z",
        "param_shape": "the shape of what the encoder has to return",
    }

    latent_shape: tuple[int, ...]
    param_shape: tuple[int, ...]
    space: str = "all real vectors"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """q(z|h), for h (..., *param_shape), with batch shape (...) and the event shape of z."""
        raise NotImplementedError
