"""The variational autoencoder."""

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
from torch import Tensor

from pyrovae.guides import DiagonalNormal
from pyrovae.likelihoods import Bernoulli
from pyrovae.models.decoded import Decoded
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part
from pyrovae.priors import StandardNormal
from pyrovae.programs.handlers import register, rows


class VAE(Decoded):
    """p(x, z) = p(z) p(x|z), with guide q(z|x).  (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)

    Each part is a module, or a class (or functools.partial of one) that builds the module from its shapes.

    Args:
        event_shape: shape of one datum x: (C, H, W), or (D,).
        latent_dim: number of latents.
        prior: p(z); built from the latent shape and the event shape.
        likelihood: p(x|h); built from the event shape.
        guide: the family q(z|h); built from the latent shape.
        encoder: network from x to the guide's parameters.
        decoder: network from z to the likelihood's parameters.

    Raises:
        ValueError: the shapes of two parts do not fit; the message says which shape was expected and found.

    Example:
        >>> import torch
        >>> from pyrovae.models import VAE
        >>> vae = VAE(event_shape=(1, 8, 8), latent_dim=2)
        >>> x = vae.sample(5)
        >>> x.shape, vae.q_z(x).mean.shape
        (torch.Size([5, 1, 8, 8]), torch.Size([5, 2]))
        >>> round(vae.p_z().log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        prior: Part = StandardNormal,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
    ) -> None:
        super().__init__()
        self.build_parts(event_shape, latent_dim, prior, likelihood, guide, encoder, decoder)

    def p_z(self) -> dist.TorchDistribution:
        """The prior p(z)."""
        return self.prior(self.q_z)

    def p_x(self, z: Tensor) -> dist.TorchDistribution:
        """The likelihood p(x|z), for z (..., *latent_shape)."""
        return self.likelihood(self.decoder(z))

    def q_z(self, x: Tensor) -> dist.TorchDistribution:
        """The guide q(z|x), for x (..., *event_shape)."""
        return self.family(self.encoder(x))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """z_i ~ p(z), x_i ~ p(x|z_i) for the rows of x, or for n new rows if x is None."""
        register(self)
        with pyro.plate("data", rows(n, z=len(self.latent_shape), x=len(self.event_shape)) if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """z_i ~ q(z|x_i) for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.q_z(x))
