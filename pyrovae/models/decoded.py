"""The base class of models whose p(x|...) is made by a decoder and a likelihood."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.guides import GuideFamily
from pyrovae.likelihoods import Likelihood
from pyrovae.networks.connect import Part, build, connect, same_space, takes_missing
from pyrovae.priors import Prior
from pyrovae.programs import importance
from pyrovae.programs.pair import Program


class Decoded(nn.Module):
    """p(x|...) = likelihood(decoder(...)): the checks of x, and the start of the decoder at the mean of x.

    Attributes:
        event_shape: shape of one datum x.
        likelihood: makes p(x|h).
        decoder: network from the latents to h.
    """

    event_shape: tuple[int, ...]
    latent_shape: tuple[int, ...]
    prior: Prior
    likelihood: Likelihood
    family: GuideFamily
    encoder: nn.Module
    decoder: nn.Module
    model: Program
    guide: Program

    def build_parts(
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
        """Build the parts of a model with one layer of latents.

        Args:
            given: event shapes of the further inputs of both networks, such as labels.
        """
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

    def sample(self, n: int) -> Tensor:
        """n new data x ~ p(x), of shape (n, *event_shape)."""
        return importance.sample(self, n)

    def begin_at_the_mean(self, x: Tensor) -> None:
        """Call `begin_at` with the mean of the training data x (N, *event_shape); use it before training."""
        self.check(x)
        self.begin_at(x.mean(0))

    def begin_at(self, mean: Tensor) -> None:
        """Set the decoder's last bias so that p(x|z) has this mean while z has no effect; use it before training.

        Otherwise the first epochs are spent on learning that bias.  (Burda et al. 2016)

        Args:
            mean: mean of the training data (*event_shape).

        Raises:
            ValueError: the likelihood has no inverse link; the decoder does not end in a linear layer with bias.
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
        """Raise a ValueError unless x has the event shape, is finite, and lies in the likelihood's support."""
        checks.event(x, self.event_shape)
        checks.finite("x", x, missing=self.likelihood.missing)
        h = x.new_zeros(1, *self.likelihood.param_shape)
        checks.support(x, self.likelihood(h).support, self.likelihood.advice)
