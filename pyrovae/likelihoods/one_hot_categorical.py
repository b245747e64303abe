"""The categorical likelihood of a class."""

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

    Example:
        >>> import torch
        >>> from pyrovae.likelihoods import OneHotCategorical
        >>> p = OneHotCategorical(event_shape=4)(torch.zeros(4))
        >>> round(p.log_prob(torch.tensor([0.0, 1.0, 0.0, 0.0])).item(), 4)  # log(1/4)
        -1.3863
    """

    measure = CLASSES
    advice = ". One of the K columns has to be 1, the others 0"

    def __init__(self, event_shape: Sequence[int] | int) -> None:
        super().__init__()
        self.event_shape = self.param_shape = (checks.vector("event_shape", event_shape),)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.OneHotCategorical(logits=h)

    def extra_repr(self) -> str:
        return f"event_shape={self.event_shape}"
