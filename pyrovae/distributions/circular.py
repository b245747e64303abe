"""Densities of angles, with period 2 pi."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Size, Tensor
from torch.distributions import register_kl


class Circular(dist.TorchDistribution):
    """p(a) = C cos((a - m) / 2)^(2k), C = Gamma(k + 1) / (2 sqrt(pi) Gamma(k + 1/2)): a density of angles, period 2 pi.

    The angle of a `PowerSpherical` point in the plane (De Cao & Aziz 2020). It is similar to a von Mises density, but
    its samples are a differentiable function of its parameters: sqrt(2k + 1) tan((a - m) / 2) ~ StudentT(2k + 1).

    Args:
        centre: m.
        concentration: k >= 0; 0 is uniform.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import Circular
        >>> p = Circular(torch.tensor(0.0), torch.tensor(0.0))  # k = 0: uniform
        >>> round(p.log_prob(torch.tensor(1.0)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    arg_constraints = {"centre": constraints.real, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = constraints.real
    has_rsample = True

    def __init__(self, centre: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.centre, self.concentration = torch.broadcast_tensors(centre, concentration)
        super().__init__(self.centre.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "Circular":
        return Circular(self.centre.expand(batch_shape), self.concentration.expand(batch_shape), self._validate_args)

    @property
    def mean(self) -> Tensor:
        """The angle of the mean point on the circle."""
        return self.centre

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        freedom = 2 * self.concentration + 1
        t = dist.StudentT(freedom).rsample(sample_shape)
        return wrapped(self.centre + 2 * torch.atan(t / freedom.sqrt()))

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        far = ((value.double() - self.centre) / 2).sin().square()
        kernel = self.concentration * torch.log1p(-far.clamp_max(1 - 1e-12))
        return (self._log_constant() + kernel).to(value.dtype)

    def entropy(self) -> Tensor:
        k = self.concentration.double()
        expected = (k + 0.5).digamma() - (k + 1).digamma()  # E[log cos((a - m) / 2)^2]
        return (-self._log_constant() - k * expected).to(self.centre.dtype)

    def _log_constant(self) -> Tensor:
        """log C, in float64: the difference of log-gammas of large numbers has no correct digit in float32."""
        k = self.concentration.double()
        return (k + 1).lgamma() - (k + 0.5).lgamma() - math.log(2 * math.sqrt(math.pi))


class UniformAngle(dist.TorchDistribution):
    """p(a) = 1 / (2 pi), with period 2 pi.

    Args:
        zero: zeros; they define shape, dtype and device.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import UniformAngle
        >>> round(UniformAngle(torch.zeros(())).log_prob(torch.tensor(1.0)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    arg_constraints = {"zero": constraints.real}  # noqa: RUF012
    support = constraints.real
    period = 2 * math.pi
    has_rsample = True  # it has no parameters, so a sample has no gradient to carry

    def __init__(self, zero: Tensor, validate_args: bool | None = None) -> None:
        self.zero = zero
        super().__init__(zero.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UniformAngle":
        return UniformAngle(self.zero.expand(batch_shape), self._validate_args)

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        return (2 * torch.rand_like(self.zero.expand(self.shape(sample_shape))) - 1) * math.pi

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        return torch.zeros_like(value + self.zero) - math.log(2 * math.pi)


@register_kl(Circular, UniformAngle)
def _kl_to_uniform(q: Circular, p: UniformAngle) -> Tensor:
    return math.log(2 * math.pi) - q.entropy()


def wrapped(angle: Tensor) -> Tensor:
    """The same angle, between -pi and pi."""
    return angle - 2 * math.pi * (angle / (2 * math.pi)).round()
