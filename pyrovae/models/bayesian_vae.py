"""The variational autoencoder with a posterior over its decoder's weights."""

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

    w are the decoder's weights, one site outside plate "data": p(w_i) = Normal(0, scale^2 / fan-in), where the fan-in
    of a bias is 1, and q(w) = Normal(m, diag(exp(v))). The loss of a batch of B rows contains the share
    B / training_rows of KL(q(w) || p(w)), so that one epoch counts this KL once. The loss over all data, times
    training_rows, is a bound on -log p(x_1, ..., x_N). beta weights both KLs; beta < 1 gives a cold posterior of z and
    w (Wenzel et al. 2020).

    All rows of a batch share one draw of w, so a larger batch does not reduce the noise that w adds to the gradient.
    (Local reparametrisation and flipout would reduce it, but they have no site w.) For new data, `evaluate` and
    `posterior_predictive` average over w. For all other questions, `at(w)` is a plain VAE.

    Args:
        event_shape, latent_dim, prior, likelihood, guide, encoder: as in `VAE`; their parameters are point estimates.
        training_rows: N, the number of rows of all training data; `fit` checks it.
        decoder: as in `VAE`; its initial weights are the initial means m.
        scale: scale of p(w), before the division by the square root of the fan-in. With scale 1, most pixels of a
            sample from the prior would be grey.
        spread: initial standard deviations of q(w), as a multiple of those of p(w).

    Raises:
        ValueError: as in `VAE`; or the decoder has no weights.

    Example:
        >>> from pyrovae.models import BayesianVAE
        >>> import torch
        >>> vae = BayesianVAE(event_shape=2, latent_dim=1, training_rows=100, decoder=torch.nn.Linear(1, 2))
        >>> vae.p_w().event_shape  # two weights and two biases
        torch.Size([4])
        >>> round(vae.p_w().log_prob(torch.zeros(4)).item(), 4)  # -4 log(2 sqrt(2 pi))
        -6.4483
    """

    # A sampled estimate of the KL of so many weights would be mostly noise.
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

    # The likelihood has one argument more than that of the VAE: w.
    def p_x(self, z: Tensor, w: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        """The likelihood p(x|z, w), for z (..., N, *latent_shape) and w (weights,), or (..., 1, weights)."""
        return self.likelihood(self._decode(z, w))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """w ~ p(w), z_i ~ p(z), x_i ~ p(x|z_i, w) for the rows of x, or for n new rows if x is None."""
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
        """Scale the score of w to the share of a batch.

        A subsampled plate of N rows would give the same loss in nats per datum. But it cannot hold more than N rows,
        and it would also rescale the scores of new data for which w is given.
        """
        return poutine.scale(scale=1.0 if x is None else len(x) / self.training_rows)

    def _decode(self, z: Tensor, w: Tensor) -> Tensor:
        """The decoder with these weights. If each particle has its own weights, decode the particles one by one."""
        if w.ndim > 2:
            particles = zip(z.expand(*w.shape[:-2], *z.shape[-2:]), w, strict=True)
            return torch.stack([self._decode(*particle) for particle in particles])
        parts = w.flatten().split([shape.numel() for shape in self.shapes.values()])
        named = zip(self.shapes.items(), parts, strict=True)
        return functional_call(self.decoder, {name: part.view(shape) for (name, shape), part in named}, (z,))

    def at(self, w: Tensor | None = None) -> VAE:
        """The VAE p(z) p(x|z, w) as a copy, with these weights; with the mean of q(w) if w is None."""
        twin = copy.deepcopy(self)
        vector_to_parameters((self.q_w().mean if w is None else w).detach(), twin.decoder.parameters())
        parts = (twin.prior, twin.likelihood, twin.family, twin.encoder, twin.decoder)
        return VAE(self.event_shape, self.latent_shape[0], *parts)

    def at_draws(self, draws: int, seed: int = 0) -> list[VAE]:
        """The VAEs at this many draws w ~ q(w). `evaluate` averages over them."""
        checks.integer("draws", draws)
        with seeded(seed, 6):
            return [self.at(w) for w in self.q_w().sample((draws,))]

    def sample(self, n: int) -> Tensor:
        """n new data after training: one draw w ~ q(w) for all, then x_i ~ p(x|w). (n, *event_shape)"""
        return self.at(self.q_w().sample()).sample(n)

    def posterior_predictive(
        self, data: Data, draws: int = 10, particles: int = 100, seed: int = 0
    ) -> tuple[Tensor, Tensor]:
        """log p(x|D) ~ log 1/S sum_s p(x|w_s), w_s ~ q(w), for each datum, and its standard error. Two (N,), nats.

        The expected value is a lower bound on log E_q(w)[p(x|w)]. It rises with the number of draws and of particles.
        All rows share the same w_s, so their errors are not independent.

        Args:
            data: as in `evaluate`; the result does not depend on the batch size.
            draws: S.
            particles: z_k ~ q(z|x) for each p(x|w_s), as in `importance.log_likelihood`.
            seed: seed of the noise.
        """
        vaes, log_p = self.at_draws(draws, seed), []
        seeds = torch.Generator().manual_seed(seed)  # a separate generator, because reading the data uses torch's
        with seeded(seed, 7), no_side_effects(self):
            for (x,) in blocks(data, ROWS):
                block_seeds = torch.randint(2**62, (draws,), generator=seeds).tolist()
                pairs = zip(vaes, block_seeds, strict=True)
                log_p.append(torch.stack([log_likelihood(vae, x, particles, key)[0] for vae, key in pairs]))
        return log_mean_exp(torch.cat(log_p, 1))


def _fan_in(weight: Tensor) -> int:
    """The number of inputs of one unit, as torch counts them; 1 for a bias."""
    return weight[0].numel() if weight.ndim > 1 else 1
