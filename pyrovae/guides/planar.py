"""Planar flow."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

import pyrovae.distributions as densities
from pyrovae import checks
from pyrovae.guides.diagonal_normal import DiagonalNormal
from pyrovae.guides.family import GuideFamily


class Planar(GuideFamily):
    """q(z_T|h) = q(z_0|h) prod_t |dz_t/dz_t-1|^-1, z_t = z_t-1 + u_t tanh(w_t.z_t-1 + b_t).  (Rezende & Mohamed 2015)

    h = (m, v, and u_t, w_t, b_t of each t): z_0 ~ Normal(m, exp(v)). The maps have no inverse in closed form, so the
    family can score ONLY ITS OWN SAMPLES: it does not work with a VampPrior, the path derivative, or given latents.

    Args:
        latent_shape: event shape of z, a vector.
        transforms: T.

    Example:
        >>> import torch
        >>> from pyrovae.guides import Planar
        >>> family = Planar(latent_shape=2, transforms=1)
        >>> q = family(torch.zeros(family.param_shape))  # u = 0: the map is the identity, and q is Normal(0, I)
        >>> z = q.rsample()
        >>> torch.allclose(q.log_prob(z), -z.square().sum() / 2 - torch.log(torch.tensor(2 * torch.pi)))
        True
    """

    def __init__(self, latent_shape: Sequence[int] | int, transforms: int = 8) -> None:
        super().__init__()
        self.dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (self.dim,)
        self.transforms = checks.integer("transforms", transforms)
        self.base = DiagonalNormal(self.dim)
        self.param_shape = (2 * self.dim + self.transforms * (2 * self.dim + 1),)

    def extra_repr(self) -> str:
        return f"transforms={self.transforms}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        base, rest = h.tensor_split([2 * self.dim], -1)
        u, w, b = rest.unflatten(-1, (self.transforms, -1)).split([self.dim, self.dim, 1], -1)
        maps = [densities.Planar(u[..., t, :], w[..., t, :], b[..., t, 0]) for t in range(self.transforms)]
        return dist.TransformedDistribution(self.base(base), maps)
