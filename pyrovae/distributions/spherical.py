"""Densities on the unit sphere, with respect to its area."""

import math
from typing import Any

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Size, Tensor
from torch.distributions import Dirichlet, register_kl
from torch.nn import functional as F  # noqa: N812


class UniformSphere(TorchDistribution):
    """p(x) = 1 / A_d, with A_d = 2 pi^(d/2) / Gamma(d/2) the area of the unit sphere in R^d.

    Args:
        centre: zeros (..., d); they define shape, dtype and device.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import UniformSphere
        >>> p = UniformSphere(torch.zeros(3))
        >>> p.log_prob(torch.tensor([0.0, 0.0, 1.0]))  # -log(4 pi)
        tensor(-2.5310)
    """

    arg_constraints = {"centre": constraints.real_vector}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True  # it has no parameters, so a sample has no gradient to carry

    def __init__(self, centre: Tensor, validate_args: bool | None = None) -> None:
        self.centre = centre
        super().__init__(centre.shape[:-1], centre.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "UniformSphere":
        return UniformSphere(self.centre.expand(*batch_shape, -1), self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.centre

    @property
    def variance(self) -> Tensor:
        return torch.full_like(self.centre, 1 / self.event_shape[0])

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        return F.normalize(torch.randn_like(self.centre.expand(self.shape(sample_shape))), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        shape = torch.broadcast_shapes(value.shape[:-1], self.batch_shape)
        return self.centre.new_full(shape, -_log_area(self.event_shape[0]))

    def entropy(self) -> Tensor:
        return self.centre.new_full(self.batch_shape, _log_area(self.event_shape[0]))


class PowerSpherical(TorchDistribution):
    """p(x) = C (1 + m.x)^k, C = Gamma(a + b) / (2^(a+b) pi^b Gamma(a)), b = (d-1)/2, a = b + k.  (De Cao & Aziz 2020)

    It is similar to a von Mises-Fisher density, but has closed forms: (1 + m.x) / 2 is Beta(a, b), and the direction
    orthogonal to m is uniform.

    Args:
        direction: m, unit vectors (..., d).
        concentration: k >= 0, (...); 0 is uniform.

    Example:
        >>> import torch
        >>> from pyrovae.distributions import PowerSpherical
        >>> p = PowerSpherical(torch.tensor([0.0, 0.0, 1.0]), torch.tensor(1.0))
        >>> p.log_prob(torch.tensor([0.0, 0.0, 1.0])).exp()  # (1 + m.x) / (4 pi)
        tensor(0.1592)
    """

    arg_constraints = {"direction": constraints.sphere, "concentration": constraints.nonnegative}  # noqa: RUF012
    support = constraints.sphere
    has_rsample = True

    def __init__(self, direction: Tensor, concentration: Tensor, validate_args: bool | None = None) -> None:
        self.direction, self.concentration = direction, concentration
        self.b = (direction.shape[-1] - 1) / 2
        self.a = concentration + self.b
        super().__init__(concentration.shape, direction.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "PowerSpherical":
        m, k = self.direction.expand(*batch_shape, -1), self.concentration.expand(batch_shape)
        return PowerSpherical(m, k, self._validate_args)

    @property
    def mean(self) -> Tensor:
        return self.direction * ((self.a - self.b) / (self.a + self.b))[..., None]

    @property
    def variance(self) -> Tensor:
        """The variance of each coordinate."""
        total = self.a + self.b
        along = (4 * self.a * self.b / (total.square() * (total + 1)))[..., None]  # variance of m.x
        across = ((1 - along[..., 0] - ((self.a - self.b) / total).square()) / (2 * self.b))[..., None]
        return self.direction.square() * along + (1 - self.direction.square()) * across

    def rsample(self, sample_shape: Any = Size()) -> Tensor:  # noqa: B008 (an immutable tuple)
        m = self.direction.expand(self.shape(sample_shape))
        a = self.a.expand(m.shape[:-1])
        near, far = Dirichlet(torch.stack([a, torch.full_like(a, self.b)], -1)).rsample().unbind(-1)
        around = F.normalize(torch.randn_like(m[..., 1:]), dim=-1)
        # 1 - t^2 = 4 near far has full precision, even if t = near - far is close to 1 or -1.
        radius = 2 * (near * far).clamp_min(torch.finfo(m.dtype).tiny).sqrt()
        y = torch.cat([(near - far)[..., None], radius[..., None] * around], -1)  # around the first axis e
        # A reflection that maps e to m or to -m, whichever is further from e: then it is well conditioned.
        sign = torch.where(m[..., :1] > 0, -1.0, 1.0).to(m)
        e = torch.zeros_like(m[..., 1:])
        w = torch.cat([1 - sign * m[..., :1], e - sign * m[..., 1:]], -1)
        return F.normalize(sign * (y - w * (w * y).sum(-1, keepdim=True) / w[..., :1]), dim=-1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        # 1 + m.x = |m + x|^2 / 2 has full precision near x = -m; at -m itself it is small, and not 0.
        near = (self.direction.double() + value.double()).square().sum(-1) / 2
        kernel = torch.xlogy(self.concentration.double(), near.clamp_min(torch.finfo(value.dtype).eps ** 2))
        return (self._log_constant() + kernel).to(value.dtype)

    def entropy(self) -> Tensor:
        a = self.a.double()
        expected = math.log(2) + a.digamma() - (a + self.b).digamma()  # E[log(1 + m.x)]
        return (-self._log_constant() - self.concentration * expected).to(self.a.dtype)

    def _log_constant(self) -> Tensor:
        """log C, in float64: the difference of log-gammas of large numbers has no correct digit in float32."""
        a = self.a.double()
        total = a + self.b
        return total.lgamma() - a.lgamma() - total * math.log(2) - self.b * math.log(math.pi)


@register_kl(PowerSpherical, UniformSphere)
def _kl_to_uniform(q: PowerSpherical, p: UniformSphere) -> Tensor:
    return p.entropy() - q.entropy()


def _log_area(dim: int) -> float:
    return math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
