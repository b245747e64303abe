"""The variational autoencoder."""

import math
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.guides import DiagonalNormal, GuideFamily
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, build, connect, same_space, takes_missing
from pyrovae.priors import Prior, StandardNormal
from pyrovae.programs import importance
from pyrovae.programs.handlers import register, rows


class VAE(nn.Module):
    """p(x, z) = p(z) p(x|z), with guide q(z|x).  (Kingma & Welling 2014; Rezende, Mohamed & Wierstra 2014)

    Every part is a module, or what builds one from its shapes: a class, or functools.partial of one.

    Args:
        event_shape: shape of one datum x: (C, H, W), or (D,).
        latent_dim: number of latents.
        prior: p(z), from the latent and the event shape.
        likelihood: p(x|h), from the event shape.
        guide: the family q(z|h), from the latent shape.
        encoder: network from x to the guide's parameters.
        decoder: network from z to the likelihood's parameters.

    Raises:
        ValueError: the shapes of two parts do not fit; says what was expected and what was found.
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
        self._wire(event_shape, latent_dim, prior, likelihood, guide, encoder, decoder)

    def _wire(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        prior: Part,
        likelihood: Part,
        guide: Part,
        encoder: Part,
        decoder: Part,
        given: tuple[tuple[int, ...], ...] = (),
    ) -> None:
        """Build the parts of a model with one layer of latents; both networks also take what is given."""
        self.event_shape = checks.shape("event_shape", event_shape)
        self.latent_shape = (checks.integer("latent_dim", latent_dim),)
        self.prior = build("prior", prior, self.latent_shape, self.event_shape, kind=Prior)
        self.likelihood = build("likelihood", likelihood, self.event_shape, kind=Likelihood)
        self.family = build("guide", guide, self.latent_shape, kind=GuideFamily)
        self.encoder = connect(encoder, [self.event_shape, *given], self.family.param_shape, "encoder")
        self.decoder = connect(decoder, [self.latent_shape, *given], self.likelihood.param_shape, "decoder")
        same_space(self.prior, self.family)
        if self.likelihood.missing:
            takes_missing(self.encoder, [self.event_shape, *given])

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
        """z_i ~ p(z), x_i ~ p(x|z_i) for the rows of x, or for n new ones where x is None."""
        register(self)
        with pyro.plate("data", rows(n, z=len(self.latent_shape), x=len(self.event_shape)) if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """z_i ~ q(z|x_i) for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.q_z(x))

    def sample(self, n: int) -> Tensor:
        """n new data x ~ p(x), of shape (n, *event_shape)."""
        return importance.sample(self, n)

    def begin_at_the_mean(self, x: Tensor) -> None:
        """Before training: `begin_at` the mean of training data x (N, *event_shape)."""
        self.check(x)
        self.begin_at(x.mean(0))

    def begin_at(self, mean: Tensor) -> None:
        """Before training: set the decoder's last bias so that p(x|z) has this mean where z does not matter yet.

        Otherwise the first epochs go into that bias.  (Burda et al. 2016)

        Args:
            mean: of the training data (*event_shape).

        Raises:
            ValueError: a likelihood whose mean is no function of one bias; a decoder without a linear layer at its end.
        """
        last = [part for part in self.decoder.modules() if list(part.parameters(recurse=False))][-1:]
        linear = [part for part in last if isinstance(part, nn.Linear)]
        size = math.prod(self.likelihood.param_shape)
        bias = self.likelihood.inverse_link(mean)
        if not linear or linear[-1].bias is None or linear[-1].out_features != size:
            raise ValueError(f"begin: expected a decoder that ends in a linear layer of {size} with bias, found none")
        with torch.no_grad():
            linear[-1].bias.copy_(bias.flatten())

    def check(self, x: Tensor) -> None:
        """Raise a ValueError unless x are data of this model: their shape, finite, in the likelihood's support."""
        checks.event(x, self.event_shape)
        checks.finite("x", x, missing=self.likelihood.missing)
        h = x.new_zeros(1, *self.likelihood.param_shape)
        checks.support(x, self.likelihood(h).support, self.likelihood.advice)
