"""The contract of a likelihood."""

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.likelihoods.measure import Measure


class Likelihood(nn.Module):
    """p(x|h): a module that is built from the event shape of x and returns a distribution over x.

    Derive your own likelihood from this class. Its `__init__` takes the event shape as the first argument and sets the
    three attributes that have no default; `forward` returns the distribution.

    Attributes:
        event_shape: shape of one datum x.
        param_shape: shape of h for one datum; the decoder returns h.
        measure: the kind of number that p(x|h) is: a mass or a density, and over which values.
        missing: whether x may hold NaN for a missing value; then the encoder has to accept NaN, too.
        advice: advice for data outside the support. It is appended to the error message, so it begins with ". ".

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.likelihoods import Likelihood, Measure
        >>> class Exponential(Likelihood):
        ...     measure = Measure("density", "positive values")
        ...
        ...     def __init__(self, event_shape):
        ...         super().__init__()
        ...         self.event_shape = self.param_shape = (event_shape,)
        ...
        ...     def forward(self, h):
        ...         return dist.Exponential(h.exp()).to_event(1)
        >>> Exponential(2)(torch.zeros(2)).log_prob(torch.tensor([1.0, 2.0])).item()
        -3.0
    """

    REQUIRED: ClassVar = {
        "event_shape": "the shape of one datum",
        "param_shape": "the shape of what the decoder has to return",
        "measure": "a pyrovae.likelihoods.Measure, what log p(x|h) is the logarithm of",
    }

    event_shape: tuple[int, ...]
    param_shape: tuple[int, ...]
    measure: Measure
    missing: bool = False
    advice: str = ""

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """p(x|h), for h (..., *param_shape), with batch shape (...) and the event shape of x."""
        raise NotImplementedError

    def inverse_link(self, mean: Tensor) -> Tensor:
        """The h (*param_shape) for which p(x|h) has this mean (*event_shape); optional, for `begin="mean"`.

        Raises:
            ValueError: the likelihood does not define it.
        """
        name = type(self).__name__
        raise ValueError(f"begin: expected a likelihood with an inverse link from its mean (Bernoulli), found {name}")
