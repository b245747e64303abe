"""The mixture of normals, as a guide family."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions import DiagonalMixture
from pyrovae.guides.family import GuideFamily


class Mixture(GuideFamily):
    """q(z|h) = sum_k w_k Normal(z; m_k, diag(exp(v_k))), with h = (log w, m, v) and w normalised to sum to 1.

    Its samples are differentiable in all of h, including the weights: see `distributions.DiagonalMixture`.

    Args:
        latent_shape: event shape of z, a vector.
        components: K, at least 2.

    Example:
        >>> import torch
        >>> from pyrovae.guides import Mixture
        >>> family = Mixture(latent_shape=2, components=3)
        >>> q = family(torch.zeros(family.param_shape))  # three equal components
        >>> round(q.log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(self, latent_shape: Sequence[int] | int, components: int = 3) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        self.components = checks.integer("components", components, least=2)
        self.param_shape = (self.components * (1 + 2 * dim),)

    def extra_repr(self) -> str:
        return f"components={self.components}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        log_weights, mean_and_log_variance = h.tensor_split([self.components], -1)
        mean, log_variance = mean_and_log_variance.unflatten(-1, (2, self.components, -1)).unbind(-3)
        parts = dist.Normal(mean, (log_variance / 2).exp()).to_event(1)
        return DiagonalMixture(dist.Categorical(logits=log_weights), parts)
