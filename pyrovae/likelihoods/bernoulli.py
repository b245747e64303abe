"""The Bernoulli likelihood."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions import SoftBernoulli
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import BINARY, SOFT_TARGETS


class Bernoulli(Likelihood):
    """p(x|h) = prod_i sigmoid(h_i)^x_i (1 - sigmoid(h_i))^(1 - x_i), for x_i in {0, 1}; h are logits.

    Args:
        event_shape: event shape of x.
        soft_targets: accept any x_i in [0, 1], such as grey pixels under binary cross-entropy. The result is not a
            density, and its scores cannot be compared with others; `ContinuousBernoulli` is the density.

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import Bernoulli
        >>> likelihood = Bernoulli(event_shape=(1, 2, 2))
        >>> x, h = torch.ones(1, 2, 2), torch.zeros(likelihood.param_shape)
        >>> round(likelihood(h).log_prob(x).item(), 4)  # 4 log(1/2)
        -2.7726
    """

    measure = BINARY
    advice = (
        ". A Bernoulli has no grey values: binarise the data (data.load(..., binarize='dynamic' or 'threshold')) "
        "or choose a likelihood for grey values (likelihoods.ContinuousBernoulli, DiscretizedLogistic, Normal)"
    )

    def __init__(self, event_shape: Sequence[int] | int, soft_targets: bool = False) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)
        self.soft_targets = soft_targets
        self.density = dist.Bernoulli
        if soft_targets:
            self.density = SoftBernoulli
            self.measure = SOFT_TARGETS
            self.advice = ". Divide by the largest value, or choose a likelihood for real values (likelihoods.Normal)"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return self.density(logits=h).to_event(len(self.event_shape))

    def inverse_link(self, mean: Tensor) -> Tensor:
        """The h with this mean: the logit of the mean, which is clamped to [.001, .999]."""
        return mean.clamp(1e-3, 1 - 1e-3).logit()

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}, soft_targets={self.soft_targets}"
