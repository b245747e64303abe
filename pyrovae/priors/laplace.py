"""The Laplace prior."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.priors.prior import Prior


class Laplace(Prior):
    """p(z) = prod_i exp(-|z_i| / b) / (2b): sparser than a normal, and not invariant to rotations of z.

    Args:
        latent_shape: event shape of z.
        event_shape: not used.
        scale: b; the standard deviation is sqrt(2) b.

    Example:
        >>> import torch
        >>> from pyrovae.priors import Laplace
        >>> p = Laplace(latent_shape=2)()
        >>> round(p.log_prob(torch.tensor([1.0, -2.0])).item(), 4)  # -3 - 2 log 2
        -4.3863
    """

    zero: Tensor
    width: Tensor

    def __init__(self, latent_shape: Sequence[int] | int, event_shape: object = None, scale: float = 1.0) -> None:
        super().__init__()
        self.latent_shape, self.scale = checks.shape("latent_shape", latent_shape), checks.positive("scale", scale)
        self.register_buffer("zero", torch.zeros(self.latent_shape), persistent=False)
        self.register_buffer("width", torch.full(self.latent_shape, self.scale), persistent=False)

    def extra_repr(self) -> str:
        return f"scale={self.scale}"

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        return dist.Laplace(self.zero, self.width).to_event(len(self.latent_shape))
