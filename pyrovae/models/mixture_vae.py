"""The variational autoencoder whose prior is a mixture: clusters that nobody has labelled."""

import math
import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, Self

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.guides import DiagonalNormal, FullRankNormal, GuideFamily
from pyrovae.lazy import LazyModule
from pyrovae.likelihoods import Bernoulli
from pyrovae.models.vae import VAE
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, build
from pyrovae.objectives import ELBO
from pyrovae.priors import Prior
from pyrovae.programs.handlers import register, rows
from pyrovae.programs.pair import no_side_effects

sklearn = LazyModule("sklearn")


class MixtureVAE(VAE):
    """p(x, y, z) = p(y) p(z|y) p(x|z), with guide q(z|x) p(y|z): VaDE.  (Jiang et al. 2017)

    p(y|z) = p(y) p(z|y) / p(z) is Bayes' rule, at any q(z|x) the best guide of y: there is no classifier to learn, and
    with y, a one-hot vector, summed out the bound is that of a `VAE` whose prior is the mixture. Here y is a site: data
    are assigned to it, and `poutine.condition(vae.model, {"y": y})` generates from it.

    Clusters that start at random unite, and die out. Here they start alike, which is a plain VAE, and are then found
    among its encodings; with a small beta these still keep apart what differs:

        fit(vae, data, epochs=30, objective=ELBO(0.1, "enumerated"))
        vae.initialise(data.train[:])
        fit(vae, data, epochs=20)

    In one run: `pyrovae train --model mixture-vae --epochs 50`.

    Args:
        event_shape, latent_dim, likelihood, guide, encoder, decoder: as in `VAE`.
        clusters: number of values of y.
        conditional_prior: the family of p(z|y), a guide family; `initialise` knows `FullRankNormal`, `DiagonalNormal`.
        spread: standard deviation of its parameters at the start. At 0 the clusters stay alike until `initialise`.

    Raises:
        ValueError: the shapes of two parts do not fit; fewer than two clusters, or alike ones that stay so.
    """

    objective = staticmethod(partial(ELBO, estimator="enumerated"))  # what it is usually trained by
    prior: "Clusters"

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        clusters: int = 10,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        conditional_prior: Part = FullRankNormal,
        spread: float = 0.0,
    ) -> None:
        prior = partial(Clusters, clusters=clusters, family=conditional_prior, spread=spread)
        super().__init__(event_shape, latent_dim, prior, likelihood, guide, encoder, decoder)

    @property
    def initial_rows(self) -> int:
        """How many data `initialise` must see at least."""
        return self.prior.clusters

    @property
    def begins_alike(self) -> bool:
        """Whether the clusters are one until `initialise`, and the model a plain VAE."""
        return self.prior.spread == 0

    def p_y(self) -> dist.TorchDistribution:
        """The clusters' shares p(y)."""
        return dist.OneHotCategorical(logits=self.prior.h_y)

    def p_z(self, y: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        """The cluster p(z|y), for y (..., clusters)."""
        return self.prior(y)

    def q_y(self, z: Tensor) -> dist.TorchDistribution:
        """The guide p(y|z), for z (..., *latent_shape)."""
        each = self.p_z(torch.eye(self.prior.clusters).to(z))
        return dist.OneHotCategorical(logits=self.prior.h_y + each.log_prob(z.unsqueeze(-2)))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """y_i ~ p(y), z_i ~ p(z|y_i), x_i ~ p(x|z_i) for the rows of x, or for n new ones where x is None."""
        register(self)
        with pyro.plate("data", rows(n, y=1, z=1, x=len(self.event_shape)) if x is None else len(x)):
            y = pyro.sample("y", self.p_y())
            z = pyro.sample("z", self.p_z(y))
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """z_i ~ q(z|x_i), y_i ~ p(y|z_i) for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", self.q_z(x))
            pyro.sample("y", self.q_y(z), infer={"enumerate": "parallel"})
            return z

    def initialise(self, x: Tensor) -> Self:
        """Put the clusters where EM for a mixture of normals finds them among draws z ~ q(z|x), the best of ten times.

        Args:
            x: training data (N, *event_shape), all or some thousands of them.
        """
        self.check(x)
        with no_side_effects(self):
            self.prior.initialise(self.q_z(x).sample())
        return self


class Clusters(Prior):
    """p(y) = softmax(h_y)_y and p(z|y) = family(z; h_z[y]): a share, and a law of z, of its own for each cluster y.

    Args:
        latent_shape: event shape of z.
        event_shape: not needed.
        clusters: K.
        family: of p(z|y), a guide family.
        spread: standard deviation of h_z at the start.
    """

    found: Tensor

    def __init__(
        self,
        latent_shape: tuple[int, ...],
        event_shape: object = None,
        clusters: int = 10,
        family: Part = FullRankNormal,
        spread: float = 0.0,
    ) -> None:
        super().__init__()
        self.clusters, self.spread = checks.integer("clusters", clusters, least=2), checks.number("spread", spread, 0)
        self.family: Any = build("conditional_prior", family, latent_shape, kind=GuideFamily)
        self.latent_shape, self.space = latent_shape, self.family.space
        if self.spread == 0:
            self._check_family()
        self.h_y = nn.Parameter(torch.zeros(self.clusters))
        self.h_z = nn.Parameter(self.spread * torch.randn(self.clusters, *self.family.param_shape))
        self.register_buffer("found", torch.tensor(self.spread > 0))

    def extra_repr(self) -> str:
        return f"clusters={self.clusters}, spread={self.spread}"

    # Here p(z) has an argument: it is p(z|y).
    def forward(self, y: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        # Until they are found, one for all: each with its own would drift apart by their rounding errors.
        h_z = torch.where(self.found, self.h_z, self.h_z.mean(0))
        return self.family(torch.tensordot(y, h_z, 1))

    def _check_family(self) -> None:
        if type(self.family) not in COVARIANCES:
            known = " or ".join(family.__name__ for family in COVARIANCES)
            raise ValueError(
                f"conditional_prior: expected {known} to start from data, found {self.family}; with a spread > 0 it "
                "starts at random"
            )

    @torch.no_grad()
    def initialise(self, z: Tensor) -> Self:
        """Normal clusters of the shares, means and covariances that EM finds among z (N, d)."""
        self._check_family()
        if len(z) < self.clusters:
            raise ValueError(f"x: expected at least clusters = {self.clusters} rows, found {len(z)}")
        z, seed = z.double().cpu(), int(torch.randint(2**31, ()))
        least = 1e-3 * z.var(0).mean().item() + 1e-6  # else the best cluster of all would be one row, a point
        em = sklearn.mixture.GaussianMixture(
            self.clusters,
            covariance_type=COVARIANCES[type(self.family)],
            n_init=10,
            reg_covar=least,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # a start need not be where EM ends
            em.fit(z.numpy())
        shares, means, covariances = map(torch.from_numpy, (em.weights_, em.means_, em.covariances_))
        self.h_y.copy_(shares.log())
        self.h_z.copy_(torch.cat([means, self._scale(covariances)], -1))
        self.found.fill_(True)
        return self

    def _scale(self, covariances: Tensor) -> Tensor:
        """The part of h_z that tells the covariances (K, d, d), or the variances (K, d), of normal clusters."""
        if covariances.ndim == 2:
            return covariances.log()
        factor = torch.linalg.cholesky(covariances)
        scale = factor.diagonal(dim1=-2, dim2=-1)
        below = (factor / scale.unsqueeze(-2))[:, self.family.rows, self.family.columns] * math.sqrt(self.family.dim)
        return torch.cat([scale.log(), below], -1)


# What EM calls the covariances of a family.
COVARIANCES = {DiagonalNormal: "diag", FullRankNormal: "full"}
