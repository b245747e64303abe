"""The contract of a guide family."""

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn


class GuideFamily(nn.Module):
    """q(z|h): a module that is built from the shape of z and returns a distribution over z.

    A family of your own is a subclass. Its `__init__` takes the latent shape as the first argument and sets the two
    attributes without a default; `forward` returns the distribution. Families also serve as p(z|y).

    Attributes:
        latent_shape: event shape of z.
        param_shape: shape of h for one datum, a vector: what the encoder has to return.
        space: the values that z may take; those of the prior and of the guide have to agree.
    """

    REQUIRED: ClassVar = {
        "latent_shape": "the event shape of z",
        "param_shape": "the shape of what the encoder has to return",
    }

    latent_shape: tuple[int, ...]
    param_shape: tuple[int, ...]
    space: str = "all real vectors"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """q(z|h), for h (..., *param_shape): its batch shape is (...), its event shape that of z."""
        raise NotImplementedError
