"""The mixture prior."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import nn

from pyrovae import checks
from pyrovae.priors.prior import Prior


class Mixture(Prior):
    """p(z) = sum_k w_k Normal(z; m_k, diag(s_k^2)), with weights, means and scales learned.

    The initial means are drawn from a normal, because components that start equal stay equal.

    Args:
        latent_shape: event shape of z.
        event_shape: not used.
        components: K.
        spread: standard deviation of the initial means.

    Example:
        >>> import torch
        >>> from pyrovae.priors import Mixture
        >>> prior = Mixture(latent_shape=1, components=5)
        >>> grid = torch.linspace(-12, 12, 241).unsqueeze(-1)
        >>> round(prior().log_prob(grid).exp().sum().item() * 0.1, 4)  # the density integrates to 1
        1.0
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        event_shape: object = None,
        components: int = 10,
        spread: float = 1.0,
    ) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        self.components, self.spread = checks.integer("components", components), checks.positive("spread", spread)
        self.mean = nn.Parameter(self.spread * torch.randn(self.components, *self.latent_shape))
        self.log_scale = nn.Parameter(torch.zeros(self.components, *self.latent_shape))
        self.log_weight = nn.Parameter(torch.zeros(self.components))

    def extra_repr(self) -> str:
        return f"components={self.components}, spread={self.spread}"

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        parts = dist.Normal(self.mean, self.log_scale.exp()).to_event(len(self.latent_shape))
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weight), parts)
