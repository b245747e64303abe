"""The likelihood of one class out of several."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.likelihoods.likelihood import Likelihood
from pyrovae.likelihoods.measure import CLASSES


class OneHotCategorical(Likelihood):
    """p(x|h) = prod_k softmax(h)_k^x_k, for a class x as a one-hot vector.

    Args:
        event_shape: (K,), the number of classes.
    """

    measure = CLASSES
    advice = ". Of K columns one is 1, the others are 0"

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = self.param_shape = (checks.vector("event_shape", event_shape),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=h)

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
