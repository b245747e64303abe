"""The variational autoencoder whose decoder has uncertain weights."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils import vector_to_parameters

from pyrovae import checks
from pyrovae.data.split import ROWS, Data, blocks
from pyrovae.guides import DiagonalNormal
from pyrovae.likelihoods import Bernoulli
from pyrovae.models.vae import VAE
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part
from pyrovae.objectives import ELBO
from pyrovae.priors import StandardNormal
from pyrovae.programs.handlers import register, rows
from pyrovae.programs.importance import log_likelihood
from pyrovae.programs.pair import no_side_effects
from pyrovae.programs.traces import log_mean_exp
from pyrovae.randomness import seeded


class BayesianVAE(VAE):
    """p(w, z, x) = p(w) prod_n p(z_n) p(x_n|z_n, w), with guide q(w) prod_n q(z_n|x_n).  (Kingma & Welling 2014, F)

    w are the decoder's weights, one site outside plate "data": p(w_i) = Normal(0, scale^2 / fan-in), with a bias's
    fan-in 1, and q(w) = Normal(m, diag(exp(v))). B rows pay the share B / training_rows of KL(q(w) || p(w)), so that
    the data pay it once; the loss over all data, times training_rows, is a bound on -log p(x_1, ..., x_N). beta weighs
    both KLs: below 1 the posterior of z and w is a cold one (Wenzel et al. 2020).

    A batch has one draw of w, whose noise in the gradient no larger batch averages out: what would lessen it (the
    local reparametrisation, flipout) has no site w. Of new data, `evaluate` and `posterior_predictive` average
    over w, and each `at(w)` is a plain VAE, for all other questions.

    Args:
        event_shape, latent_dim, prior, likelihood, guide, encoder: as in `VAE`; what they learn are points.
        training_rows: N, the rows of all training data; `fit` checks it.
        decoder: as in `VAE`; the weights that it comes with are the first means m.
        scale: of p(w), before the division by the root of the fan-in. At 1 most pixels would be grey before data.
        spread: standard deviations of q(w) at first, in those of p(w).

    Raises:
        ValueError: as in `VAE`; a decoder without weights.
    """

    # Sampled, the KL of so many weights would be mostly noise.
    objective = staticmethod(partial(ELBO, estimator="analytic"))

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        training_rows: int | None = None,
        prior: Part = StandardNormal,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        scale: float = 2.0,
        spread: float = 0.05,
    ) -> None:
        super().__init__(event_shape, latent_dim, prior, likelihood, guide, encoder, decoder)
        self.training_rows = checks.integer("training_rows", training_rows)
        means = dict(self.decoder.named_parameters())
        if not means:
            raise ValueError("decoder: expected a network with weights, found none")
        self.shapes = {name: mean.shape for name, mean in means.items()}
        checks.positive("scale", scale)
        scales = [torch.full_like(mean, scale / math.sqrt(_fan_in(mean))).flatten() for mean in means.values()]
        self.w_scale: Tensor
        self.register_buffer("w_scale", torch.cat(scales).detach())
        self.w_log_variance = nn.Parameter(2 * (checks.positive("spread", spread) * self.w_scale).log())

    def p_w(self) -> dist.TorchDistribution:
        """The prior p(w) of all the decoder's weights, as one vector."""
        return dist.Normal(torch.zeros_like(self.w_scale), self.w_scale).to_event(1)

    def q_w(self) -> dist.TorchDistribution:
        """The guide q(w), whose means are the decoder's own parameters."""
        mean = torch.cat([value.flatten() for value in self.decoder.parameters()])
        return dist.Normal(mean, (self.w_log_variance / 2).exp()).to_event(1)

    # With w the likelihood has an argument more than the VAE's.
    def p_x(self, z: Tensor, w: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        """The likelihood p(x|z, w), for z (..., N, *latent_shape) and w (weights,), or (..., 1, weights)."""
        return self.likelihood(self._decode(z, w))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """w ~ p(w), z_i ~ p(z), x_i ~ p(x|z_i, w) for the rows of x, or for n new ones where x is None."""
        register(self)
        with self._share(x):
            w = pyro.sample("w", self.p_w())
        with pyro.plate("data", rows(n, z=len(self.latent_shape), x=len(self.event_shape)) if x is None else len(x)):
            z = pyro.sample("z", self.p_z())
            return pyro.sample("x", self.p_x(z, w), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """w ~ q(w), z_i ~ q(z|x_i) for the rows of x."""
        register(self)
        with self._share(x):
            pyro.sample("w", self.q_w())
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.q_z(x))

    def _share(self, x: Tensor | None) -> Any:
        """Scales the score of w to that of a batch. A plate of N rows, subsampled, would give the same loss in nats per
        datum, but has no room for more rows than that, and new data, with w given, would not have plain scores."""
        return poutine.scale(scale=1.0 if x is None else len(x) / self.training_rows)

    def _decode(self, z: Tensor, w: Tensor) -> Tensor:
        """The decoder with these weights; where particles have each their own, one after the other."""
        if w.ndim > 2:
            each = zip(z.expand(*w.shape[:-2], *z.shape[-2:]), w, strict=True)
            return torch.stack([self._decode(*both) for both in each])
        parts = w.flatten().split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return functional_call(self.decoder, {name: part.view(shape) for (name, shape), part in named}, (z,))

    def at(self, w: Tensor | None = None) -> VAE:
        """The VAE p(z) p(x|z, w) with these weights, without any with the mean of q(w); a copy of its own."""
        twin = copy.deepcopy(self)
        vector_to_parameters((self.q_w().mean if w is None else w).detach(), twin.decoder.parameters())
        parts = (twin.prior, twin.likelihood, twin.family, twin.encoder, twin.decoder)
        return VAE(self.event_shape, self.latent_shape[0], *parts)

    def at_draws(self, draws: int, seed: int = 0) -> list[VAE]:
        """The VAEs `at` so many draws w ~ q(w): what `evaluate` averages over."""
        checks.integer("draws", draws)
        with seeded(seed, 6):
            return [self.at(w) for w in self.q_w().sample((draws,))]

    def sample(self, n: int) -> Tensor:
        """n new data after training: w ~ q(w), once for all, then x_i ~ p(x|w). (n, *event_shape)"""
        return self.at(self.q_w().sample()).sample(n)

    def posterior_predictive(
        self, data: Data, draws: int = 10, particles: int = 100, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """log p(x|D) ~ log 1/S sum_s p(x|w_s), w_s ~ q(w): per datum, and its standard error. Two (N,), nats.

        In the mean a lower bound of log E_q(w)[p(x|w)], which rises with both numbers. All rows meet the same w_s:
        their errors are not independent.

        Args:
            data: as in `evaluate`; how it is batched changes no digit.
            draws: S.
            particles: z_k ~ q(z|x) for each p(x|w_s), as in `inference.log_likelihood`.
            seed: of the noise.
        """
        vaes, log_p = self.at_draws(draws, seed), []
        seeds = torch.Generator().manual_seed(seed)  # its own: reading the data draws random numbers, too
        with seeded(seed, 7), no_side_effects(self):
            for (x,) in blocks(data, ROWS):
                each = torch.randint(2**62, (draws,), generator=seeds).tolist()
                given = [log_likelihood(vae, x, particles, own)[0] for vae, own in zip(vaes, each, strict=True)]
                log_p.append(torch.stack(given))
        return log_mean_exp(torch.cat(log_p, 1))


def _fan_in(weight: Tensor) -> int:
    """How many numbers a weight's unit sums, as torch counts them; 1 for a bias."""
    return weight[0].numel() if weight.ndim > 1 else 1
