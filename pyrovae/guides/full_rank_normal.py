"""The full-rank normal guide family."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

import pyrovae.distributions.kl  # noqa: F401 (registers its closed KL from a diagonal normal prior)
from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class FullRankNormal(GuideFamily):
    """q(z|h) = Normal(z; m, L L'), L = (I + N / sqrt(d)) D, with h = (m, log diag D, N below the diagonal).

    The columns of L have the scales D. If h held the entries of L directly, L would become almost singular when the
    scales shrink; on MNIST this lost four nats after five epochs. 1/sqrt(d) keeps the correlations small at the start.

    The family contains the exact posterior of a linear model. With posterior precision P, the diagonal family loses
    1/2 (sum_i log P_ii - log|P|) nats there.

    Args:
        latent_shape: event shape of z, a vector.

    Example:
        >>> import torch
        >>> from pyrovae.guides import FullRankNormal
        >>> family = FullRankNormal(latent_shape=2)
        >>> q = family(torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0**0.5]))  # L = [[1, 0], [1, 1]]
        >>> q.covariance_matrix.round(decimals=4)  # L L'
        tensor([[1., 1.],
                [1., 2.]])
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (self.dim,)
        rows, columns = torch.tril_indices(self.dim, self.dim, -1)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.param_shape = (2 * self.dim + len(rows),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        mean, log_scale, below = h.split([self.dim, self.dim, len(self.rows)], -1)
        unit = torch.ones_like(log_scale).diag_embed()
        unit[..., self.rows, self.columns] = below / math.sqrt(self.dim)
        return dist.MultivariateNormal(mean, scale_tril=unit * log_scale.exp().unsqueeze(-2))
