"""Inverse autoregressive flow."""

from collections.abc import Sequence

import pyro.distributions as dist
from torch import Tensor

from pyrovae import checks
from pyrovae.distributions.autoregressive import affine, stack
from pyrovae.guides.diagonal_normal import DiagonalNormal
from pyrovae.guides.family import GuideFamily


class IAF(GuideFamily):
    """q(z_T|h) = q(z_0|h) prod_t |dz_t/dz_t-1|^-1, z_t = a_t z_t-1 + b_t: inverse autoregressive flow.  (Kingma 2016)

    h = (m, v, c): z_0 ~ Normal(m, exp(v)), and c is the context. Value i of a_t and b_t is a network of c and of the
    values of z_t-1 before i; the order is reversed from one t to the next. A sample takes one pass of each network, and
    its score needs no further pass. The score of any other z takes one pass for each latent.

    Args:
        latent_shape: event shape of z, a vector.
        transforms: T.
        hidden: width of each hidden layer of a transform's network.
        context: size of c.

    Example:
        >>> import torch
        >>> from pyrovae.guides import IAF
        >>> family = IAF(latent_shape=3, context=4)
        >>> q = family(torch.zeros(5, *family.param_shape))
        >>> q.log_prob(q.rsample()).shape  # param_shape: 3 means, 3 log-variances, 4 values of context
        torch.Size([5])
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        transforms: int = 2,
        hidden: Sequence[int] | int = (64, 64),
        context: int = 16,
    ) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        self.context = checks.integer("context", context)
        self.base = DiagonalNormal(dim)
        self.param_shape = (self.base.param_shape[0] + self.context,)
        self.transforms = stack(transforms, dim, affine, 2, self.context, hidden)

    def extra_repr(self) -> str:
        return f"context={self.context}"

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        base, context = h.tensor_split([-self.context], -1)
        return dist.TransformedDistribution(self.base(base), [transform(context) for transform in self.transforms])
