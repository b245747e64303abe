"""The Bernoulli likelihood."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae import checks


class Bernoulli(nn.Module):
    """p(x|h) = prod_i sigmoid(h_i)^x_i (1 - sigmoid(h_i))^(1 - x_i), for x_i in {0, 1}; h are logits.

    Args:
        event_shape: event shape of x.
    """

    measure = "mass over binary values"
    advice = (
        ". A Bernoulli has no grey values: binarise the data (data.load(..., binarize='dynamic' or 'threshold')) "
        "or choose a likelihood of continuous values (likelihoods.Normal)"
    )

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Bernoulli(logits=h).to_event(len(self.event_shape))
