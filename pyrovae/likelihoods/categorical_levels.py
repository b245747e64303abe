"""The categorical likelihood of grey levels."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks, distributions
from pyrovae.likelihoods.discretized_logistic import advice
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import grey_levels


class CategoricalLevels(Likelihood):
    """P(x_i = k / (levels - 1) | h) = softmax(h_i)_k, for x_i on a grid of grey levels; it ignores their order.

    (van den Oord, Kalchbrenner & Kavukcuoglu 2016)

    Args:
        event_shape: event shape of x.
        levels: number of grey levels.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import CategoricalLevels
        >>> likelihood = CategoricalLevels(event_shape=1, levels=256)
        >>> h = torch.zeros(likelihood.param_shape)
        >>> round(likelihood(h).log_prob(torch.tensor([17 / 255])).item(), 4)  # -log 256
        -5.5452
    """

    def __init__(self, event_shape: Sequence[int] | int, levels: int = 256) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.levels = checks.integer("levels", levels, 2)
        self.measure, self.advice = grey_levels(levels), advice(levels)
        self.param_shape = (self.levels, *self.event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        logits = h.movedim(-len(self.param_shape), -1)
        return distributions.CategoricalLevels(logits).to_event(len(self.event_shape))

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, levels={self.levels}"
