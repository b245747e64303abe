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

    Each f_t bends every value by a monotone rational-quadratic spline on [-5, 5], whose knots are a network of the
    values before; g(z) = a z + b, likewise, brings z there. The order is reversed from one spline to the next. A
    density takes one pass of each network, a sample as many as there are latents.

    Args:
        latent_shape: event shape of z, a vector.
        event_shape: not needed.
        transforms: T.
        bins: of each spline.
        hidden: width of each hidden layer of a transform's network.
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
