"""The diagonal normal guide family."""

import math
from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.guides.family import GuideFamily


class DiagonalNormal(GuideFamily):
    """q(z|h) = Normal(z; m, diag(exp(v))), with h = (m, v): mean and log-variance.  (Kingma & Welling 2014)

    The parameter is the log-variance, because it needs no constraint, its scale rounds to zero only for v < -200, and
    one step of the optimiser changes a variance of .01 and one of 100 by the same factor.

    Args:
        latent_shape: event shape of z.

    Example:
        >>> import torch
        >>> from pyrovae.guides import DiagonalNormal
        >>> family = DiagonalNormal(latent_shape=2)
        >>> h = torch.zeros(family.param_shape)  # means and log-variances
        >>> round(family(h).log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(self, latent_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        self.param_shape = (2 * math.prod(self.latent_shape),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        mean, log_variance = h.unflatten(-1, (2, *self.latent_shape)).unbind(-len(self.latent_shape) - 1)
        return dist.Normal(mean, (log_variance / 2).exp()).to_event(len(self.latent_shape))
