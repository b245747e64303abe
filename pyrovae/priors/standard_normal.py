"""The standard normal prior."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.priors.prior import Prior


class StandardNormal(Prior):
    """p(z) = Normal(z; 0, I).

    Args:
        latent_shape: event shape of z.
        event_shape: not used.

    Example:
        >>> import torch
        >>> from pyrovae.priors import StandardNormal
        >>> round(StandardNormal(latent_shape=2)().log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    zero: Tensor
    one: Tensor

    def __init__(self, latent_shape: Sequence[int] | int, event_shape: object = None) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        # Buffers, so that the prior follows the model's device and dtype; not persistent, because they are constants.
        self.register_buffer("zero", torch.zeros(self.latent_shape), persistent=False)
        self.register_buffer("one", torch.ones(self.latent_shape), persistent=False)

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        return dist.Normal(self.zero, self.one).to_event(len(self.latent_shape))
