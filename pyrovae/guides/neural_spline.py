"""The neural spline flow, as a guide family."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions.autoregressive import stack
from pyrovae.distributions.spline import RationalQuadratic, parameter_count
from pyrovae.guides.diagonal_normal import DiagonalNormal
from pyrovae.guides.family import GuideFamily


class NeuralSpline(GuideFamily):
    """q(z|h) = Normal(e; 0, I) |dz/de|^-1, z = m + exp(v/2) f_T(... f_1(e)), h = (m, v, c).  (Durkan et al. 2019)

    Each f_t transforms every value by a monotone rational-quadratic spline. The knots are a network of the context c
    and of the values before; the order is reversed from one t to the next. A sample takes one pass of each network, and
    its score needs no further pass. The score of any other z takes one pass for each latent.

    Args:
        latent_shape: event shape of z, a vector.
        transforms: T.
        bins: number of bins of each spline.
        hidden: width of each hidden layer of a transform's network.
        context: size of c.

    Example:
        >>> import torch
        >>> from pyrovae.guides import NeuralSpline
        >>> family = NeuralSpline(latent_shape=3, context=4)
        >>> q = family(torch.zeros(5, *family.param_shape))
        >>> q.log_prob(q.rsample()).shape  # param_shape: 3 means, 3 log-variances, 4 values of context
        torch.Size([5])
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        transforms: int = 2,
        bins: int = 8,
        hidden: Sequence[int] | int = (64, 64),
        context: int = 16,
    ) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        count = parameter_count(bins)
        self.bins, self.context = int(bins), checks.integer("context", context)
        self.place = DiagonalNormal(dim)
        self.param_shape = (self.place.param_shape[0] + self.context,)
        self.transforms = stack(transforms, dim, RationalQuadratic, count, self.context, hidden)

    def extra_repr(self) -> str:
        return f"bins={self.bins}, context={self.context}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        place, context = h.tensor_split([-self.context], -1)
        normal: dist.Normal = self.place(place).base_dist
        noise = dist.Normal(torch.zeros_like(normal.loc), torch.ones_like(normal.scale)).to_event(1)
        last = dist.transforms.AffineTransform(normal.loc, normal.scale, event_dim=1, cache_size=1)
        return dist.TransformedDistribution(noise, [*(f(context) for f in self.transforms), last])
