"""The power spherical guide family."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

import pyrovae.distributions as densities
from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class PowerSpherical(GuideFamily):
    """q(z|h) = C (1 + m.z)^k on the unit sphere, with h = (v, r), m = v/|v| and k = softplus(r).  (De Cao & Aziz 2020)

    Use it with the prior `UniformSphere`. KL(q || p) has a closed form and depends on k alone: it does not pull q(z|x)
    towards an origin.

    Args:
        latent_shape: event shape of z, a vector of d >= 2: the sphere has d - 1 dimensions.

    Example:
        >>> import torch
        >>> from pyrovae.guides import PowerSpherical
        >>> q = PowerSpherical(latent_shape=3)(torch.tensor([0.0, 0.0, 2.0, -40.0]))  # k = 0: uniform on the sphere
        >>> round(q.log_prob(torch.tensor([1.0, 0.0, 0.0])).item(), 4)  # -log(4 pi)
        -2.531
    """

    space = "the unit sphere"

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        self.param_shape = (checks.integer("latent_shape of a sphere", dim, least=2) + 1,)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return densities.PowerSpherical(F.normalize(h[..., :-1], dim=-1), F.softplus(h[..., -1]))
