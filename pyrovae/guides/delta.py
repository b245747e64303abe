"""The guide family of single points."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class Delta(GuideFamily):
    """q(z|h) = delta(z - h): all of its mass at one point.

    With beta = 0 the VAE becomes the plain autoencoder. With beta = 1 it seeks the largest p(x, z) in z (MAP), for
    log q(z|x) is 0 by convention, not a density: that is no ELBO, and it has no finite optimum over a free decoder,
    which can draw all z to the prior's mode and undo it by ever larger weights.

    Args:
        latent_shape: event shape of z.
    """

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        self.param_shape = (math.prod(self.latent_shape),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Delta(h.unflatten(-1, self.latent_shape), event_dim=len(self.latent_shape))
