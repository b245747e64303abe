"""The low-rank normal guide family."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

import pyrovae.distributions.kl  # noqa: F401 (registers its closed KL from a diagonal normal prior)
from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class LowRankNormal(GuideFamily):
    """q(z|h) = Normal(z; m, W W' + diag(exp(v))), with h = (m, v, W) and W of few columns.  (Ong, Nott & Smith 2018)

    Args:
        latent_shape: event shape of z, a vector of d.
        rank: columns of W: h has d (2 + rank) numbers; the full-rank family has d (d + 3) / 2.

    Example:
        >>> import torch
        >>> from pyrovae.guides import LowRankNormal
        >>> q = LowRankNormal(latent_shape=2, rank=1)(torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, 1.0]))
        >>> q.covariance_matrix  # W W' + I, with W = (1, 1)'
        tensor([[2., 1.],
                [1., 2.]])
    """

    def __init__(self, latent_shape: Sequence[int] | int, rank: int = 2) -> None:
        super().__init__()
        self.dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (self.dim,)
        self.rank = checks.integer("rank", rank)
        self.param_shape = (self.dim * (2 + self.rank),)

    def extra_repr(self) -> str:
        return f"rank={self.rank}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        mean, log_variance, factor = h.split([self.dim, self.dim, self.dim * self.rank], -1)
        # 1/sqrt(rank), so that the initial size of W W' does not depend on the rank.
        factor = factor.unflatten(-1, (self.dim, self.rank)) / math.sqrt(self.rank)
        return dist.LowRankMultivariateNormal(mean, factor, log_variance.exp())
