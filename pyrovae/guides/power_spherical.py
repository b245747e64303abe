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

    Its partner is the prior `UniformSphere`: KL(q || p) is closed, and depends on k alone, so no q(z|x) is drawn to an
    origin, for there is none.

    Args:
        latent_shape: event shape of z, a vector of d >= 2: the sphere has d - 1 dimensions.
    """

    space = "the unit sphere"

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        self.param_shape = (checks.integer("latent_shape of a sphere", dim, least=2) + 1,)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return densities.PowerSpherical(F.normalize(h[..., :-1], dim=-1), F.softplus(h[..., -1]))
