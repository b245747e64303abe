"""The masked autoregressive flow prior."""

from collections.abc import Sequence

import pyro.distributions as dist

from pyrovae import checks
from pyrovae.distributions.autoregressive import affine, stack
from pyrovae.priors.prior import Prior
from pyrovae.priors.standard_normal import StandardNormal


class AutoregressiveFlow(Prior):
    """p(z) = Normal(e; 0, I) |de/dz|, e = f_T(... f_1(z)), f_t(z) = a_t z + b_t: the MAF.  (Papamakarios et al. 2017)

    Value i of a_t and b_t is a network of the values before i; the order is reversed from one t to the next. A density
    takes one pass of each network; a sample takes one pass for each latent.

    Args:
        latent_shape: event shape of z, a vector.
        event_shape: not used.
        transforms: T.
        hidden: width of each hidden layer of a transform's network.

    Example:
        >>> import torch
        >>> from pyrovae.priors import AutoregressiveFlow
        >>> prior = AutoregressiveFlow(latent_shape=2)
        >>> grid = torch.cartesian_prod(torch.linspace(-9, 9, 181), torch.linspace(-9, 9, 181))
        >>> round(prior().log_prob(grid).exp().sum().item() * 0.1**2, 2)  # the density integrates to 1
        1.0
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        event_shape: object = None,
        transforms: int = 2,
        hidden: Sequence[int] | int = (64, 64),
    ) -> None:
        super().__init__()
        dim = checks.vector("latent_shape", latent_shape)
        self.latent_shape = (dim,)
        self.noise = StandardNormal(dim)
        self.transforms = stack(transforms, dim, affine, 2, hidden=hidden)

    def forward(self, encoding: object = None) -> dist.TorchDistribution:
        return dist.TransformedDistribution(self.noise(), [f().inv for f in reversed(self.transforms)])
