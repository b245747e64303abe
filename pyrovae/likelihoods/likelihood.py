"""The contract of a likelihood."""

from typing import ClassVar

import pyro.distributions as dist
from torch import Tensor, nn

from pyrovae.likelihoods.measure import Measure


class Likelihood(nn.Module):
    """p(x|h): a module that is built from the event shape of x and returns a distribution over x.

    A likelihood of your own is a subclass. Its `__init__` takes the event shape as the first argument and sets the
    three attributes without a default; `forward` returns the distribution.

    Attributes:
        event_shape: shape of one datum x.
        param_shape: shape of h for one datum: what the decoder has to return.
        measure: what log p(x|h) is the logarithm of.
        missing: whether x may hold NaN where a value is missing; then the encoder has to take NaN, too.
        advice: what to do about data outside the support; it follows the error that says so, and begins with ". ".
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
        """p(x|h), for h (..., *param_shape): its batch shape is (...), its event shape that of x."""
        raise NotImplementedError

    def inverse_link(self, mean: Tensor) -> Tensor:
        """The h (*param_shape) whose p(x|h) has this mean (*event_shape); optional, for `begin="mean"`.

        Raises:
            ValueError: the likelihood has no such function.
        """
        found = type(self).__name__
        raise ValueError(f"begin: expected a likelihood with an inverse link from its mean (Bernoulli), found {found}")
