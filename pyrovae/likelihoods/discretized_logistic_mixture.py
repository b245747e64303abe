"""The likelihood of grey levels as a mixture of logistics."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks, distributions
from pyrovae.likelihoods.discretized_logistic import advice
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import grey_levels
from pyrovae.likelihoods.scale import PerInput, scaling


class DiscretizedLogisticMixture(Likelihood):
    """P(x|h) = prod_i sum_j softmax(h)_ij DiscretizedLogistic(x_i; m_ij, s_ij), for x_i in {0, w, 2w, ..., 1}.

    Every value has its own mixture; the decoder returns all parameters of the mixtures.  (Salimans et al. 2017)

    Args:
        event_shape: event shape of x.
        components: number of logistics.
        scale: initial value of every s, in the units of x.
        min_scale: lower bound of s.
        levels: number of grey levels.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import DiscretizedLogisticMixture
        >>> likelihood = DiscretizedLogisticMixture(event_shape=1, components=2, levels=4)
        >>> p = likelihood(torch.randn(likelihood.param_shape))
        >>> round(p.log_prob(torch.arange(4.0).unsqueeze(-1) / 3).exp().sum().item(), 4)  # over all levels
        1.0
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        components: int = 5,
        scale: float = 0.1,
        min_scale: float = 1e-3,
        levels: int = 256,
    ) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.components = checks.integer("components", components)
        self.levels = checks.integer("levels", levels, 2)
        self.measure, self.advice = grey_levels(levels), advice(levels)
        shape = (self.components, *self.event_shape)
        self.scaling = scaling(shape, scale, PerInput.learn, min_scale)
        self.param_shape = (3, *shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """h = (logits, m, v), each (..., components, *event_shape)."""
        # Pyro's mixture expects the components in the last dimension.
        first = -len(self.event_shape) - 1
        logits = h.select(first - 1, 0).movedim(first, -1)
        m, s = (param.movedim(first, -1) for param in self.scaling(h.narrow(first - 1, 1, 2)))
        return dist.MixtureSameFamily(
            dist.Categorical(logits=logits), distributions.DiscretizedLogistic(m, s, self.levels)
        ).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, components={self.components}, levels={self.levels}"
