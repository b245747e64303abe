"""The neural spline flow prior."""

from collections.abc import Sequence

import pyro.distributions as dist

from pyrovae import checks
from pyrovae.distributions.autoregressive import affine, stack
from pyrovae.distributions.spline import RationalQuadratic, parameter_count
from pyrovae.priors.prior import Prior
from pyrovae.priors.standard_normal import StandardNormal


class NeuralSpline(Prior):
    """p(z) = Normal(e; 0, I) |de/dz|, e = f_T(... f_1(g(z))), with splines f_t.  (Durkan et al. 2019)

    Each f_t transforms every value by a monotone rational-quadratic spline on [-5, 5]. The knots are a network of the
    values before. g(z) = a z + b, also autoregressive, moves z into this interval. The order is reversed from one
    spline to the next. A density takes one pass of each network; a sample takes one pass for each latent.

    Args:
        latent_shape: event shape of z, a vector.
        event_shape: not used.
        transforms: T.
        bins: number of bins of each spline.
        hidden: width of each hidden layer of a transform's network.

    Example:
        >>> import torch
        >>> from pyrovae.priors import NeuralSpline
        >>> prior = NeuralSpline(latent_shape=1)
        >>> grid = torch.linspace(-12, 12, 2401).unsqueeze(-1)
        >>> round(prior().log_prob(grid).exp().sum().item() * 0.01, 2)  # the density integrates to 1
        1.0
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        event_shape: object = None,
        transforms: int = 2,
        bins: int = 8,
        hidden: Sequence[int] | int = (64, 64),
    ) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        count = parameter_count(bins)
        self.bins = int(bins)
        self.noise = StandardNormal(dim)
        self.transforms = stack(1, dim, affine, 2, hidden=hidden)
        self.transforms.extend(stack(transforms, dim, RationalQuadratic, count, hidden=hidden))

    def extra_repr(self) -> str:
        return f"bins={self.bins}"

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        return dist.TransformedDistribution(self.noise(), [f().inv for f in reversed(self.transforms)])
