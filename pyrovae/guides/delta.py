"""The guide family of single points."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class Delta(GuideFamily):
    """q(z|h) = delta(z - h): a point mass.

    With beta = 0 the VAE becomes the plain autoencoder. With beta = 1 the guide maximises p(x, z) over z (MAP), because
    log q(z|x) is 0 by convention. The loss is then not an ELBO, and it has no finite optimum over a flexible decoder:
    the encoder can move all z towards the prior's mode while the decoder undoes it with ever larger weights.

    Args:
        latent_shape: event shape of z.

    Example:
        >>> import torch
        >>> from pyrovae.guides import Delta
        >>> q = Delta(latent_shape=2)(torch.tensor([1.0, -2.0]))
        >>> q.mean, q.log_prob(q.mean)
        (tensor([ 1., -2.]), tensor(0.))
    """

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        self.param_shape = (math.prod(self.latent_shape),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Delta(h.unflatten(-1, self.latent_shape), event_dim=len(self.latent_shape))
