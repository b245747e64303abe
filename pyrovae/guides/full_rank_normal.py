"""The full-rank normal guide family."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

import pyrovae.distributions.kl  # noqa: F401 (registers its closed KL from a diagonal normal prior)
from pyrovae import checks


class FullRankNormal(nn.Module):
    """q(z|h) = Normal(z; m, L L'), with h = (m, log diag L, L below the diagonal).

    It holds the exact posterior of a linear model, where the diagonal one misses 1/2 (sum_i log P_ii - log|P|) nats,
    P being the posterior precision.

    Args:
        latent_shape: event shape of z, a vector.
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
        mean, log_diagonal, below = h.split([self.dim, self.dim, len(self.rows)], -1)
        scale = log_diagonal.exp().diag_embed()
        scale[..., self.rows, self.columns] = below
        return dist.MultivariateNormal(mean, scale_tril=scale)
