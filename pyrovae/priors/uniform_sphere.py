"""The uniform prior on a sphere."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

import pyrovae.distributions as densities
from pyrovae import checks
from pyrovae.priors.prior import Prior


class UniformSphere(Prior):
    """p(z) = Gamma(d/2) / (2 pi^(d/2)) on the unit sphere |z| = 1 in R^d.  (Davidson et al. 2018)

    Use it with the guide family `PowerSpherical`.

    Args:
        latent_shape: event shape of z, a vector of d >= 2: the sphere has d - 1 dimensions.
        event_shape: not used.

    Example:
        >>> import torch
        >>> from pyrovae.priors import UniformSphere
        >>> p = UniformSphere(latent_shape=3)()
        >>> round(p.log_prob(torch.tensor([0.0, 0.0, 1.0])).item(), 4)  # -log(4 pi)
        -2.531
    """

    space = "the unit sphere"
    centre: Tensor

    def __init__(self, latent_shape: Sequence[int] | int, event_shape: object = None) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        checks.integer("latent_shape of a sphere", dim, least=2)
        self.register_buffer("centre", torch.zeros(dim), persistent=False)

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        return densities.UniformSphere(self.centre)
