"""The variational autoencoder whose prior is a mixture: clusters without labels."""

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

    y is a one-hot vector. p(y|z) = p(y) p(z|y) / p(z) is Bayes' rule, which is the optimal guide of y for every q(z|x),
    so no classifier is learned. With y summed out, the bound equals that of a `VAE` whose prior is the mixture. Here y
    is a site: you can assign data to clusters, and `poutine.condition(vae.model, {"y": y})` generates from a cluster.

    Randomly initialised clusters tend to merge and die out. Here all clusters start equal, so the model is a plain VAE
    at first; then EM finds the clusters among its encodings. A small beta keeps different data apart until then:

        fit(vae, data, epochs=30, objective=ELBO(0.1, "enumerated"))
        vae.initialise(data.train[:])
        fit(vae, data, epochs=20)

    The command `pyrovae train --model mixture-vae --epochs 50` does both in one run.

    Args:
        event_shape, latent_dim, likelihood, guide, encoder, decoder: as in `VAE`.
        clusters: number of values of y.
        conditional_prior: the family of p(z|y), a guide family; `initialise` needs `FullRankNormal` or
            `DiagonalNormal`.
        spread: initial standard deviation of the parameters of p(z|y). With 0 the clusters stay equal until
            `initialise`.

    Raises:
        ValueError: the shapes of two parts do not fit; there are fewer than two clusters; the spread is 0 and
            `initialise` does not support the family.

    Example:
        >>> import torch
        >>> from pyrovae.models import MixtureVAE
        >>> vae = MixtureVAE(event_shape=6, latent_dim=2, clusters=4)
        >>> vae.q_y(torch.zeros(2)).probs.detach()  # the clusters are equal at the start
        tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """

    objective = staticmethod(partial(ELBO, estimator="enumerated"))  # the default objective
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
        """The smallest number of data that `initialise` accepts."""
        return self.prior.clusters

    @property
    def begins_alike(self) -> bool:
        """Whether the clusters are equal until `initialise`, so that the model is a plain VAE."""
        return self.prior.spread == 0

    def p_y(self) -> dist.TorchDistribution:
        """The clusters' weights p(y)."""
        return dist.OneHotCategorical(logits=self.prior.h_y)

    def p_z(self, y: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        """The cluster p(z|y), for y (..., clusters)."""
        return self.prior(y)

    def q_y(self, z: Tensor) -> dist.TorchDistribution:
        """The guide p(y|z), for z (..., *latent_shape)."""
        clusters = self.p_z(torch.eye(self.prior.clusters).to(z))
        return dist.OneHotCategorical(logits=self.prior.h_y + clusters.log_prob(z.unsqueeze(-2)))

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """y_i ~ p(y), z_i ~ p(z|y_i), x_i ~ p(x|z_i) for the rows of x, or for n new rows if x is None."""
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
        """Set the clusters to the best of ten EM fits of a mixture of normals to draws z ~ q(z|x).

        Args:
            x: training data (N, *event_shape), all or a few thousand of them.
        """
        self.check(x)
        with no_side_effects(self):
            self.prior.initialise(self.q_z(x).sample())
        return self


class Clusters(Prior):
    """p(y) = softmax(h_y)_y and p(z|y) = family(z; h_z[y]): each cluster y has its own weight and distribution of z.

    Args:
        latent_shape: event shape of z.
        event_shape: not used.
        clusters: K.
        family: the family of p(z|y), a guide family.
        spread: initial standard deviation of h_z.
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

    # This prior is p(z|y): it has an argument.
    def forward(self, y: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        # Until `initialise`, all clusters share one h_z: with an h_z each, rounding errors would make them differ.
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
        """Set the clusters to the weights, means and covariances that EM fits to z (N, d)."""
        self._check_family()
        if len(z) < self.clusters:
            raise ValueError(f"x: expected at least clusters = {self.clusters} rows, found {len(z)}")
        z, seed = z.double().cpu(), int(torch.randint(2**31, ()))
        least = 1e-3 * z.var(0).mean().item() + 1e-6  # without it, a cluster could shrink to a single row
        em = sklearn.mixture.GaussianMixture(
            self.clusters,
            covariance_type=COVARIANCES[type(self.family)],
            n_init=10,
            reg_covar=least,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)  # a start need not be converged
            em.fit(z.numpy())
        shares, means, covariances = map(torch.from_numpy, (em.weights_, em.means_, em.covariances_))
        self.h_y.copy_(shares.log())
        self.h_z.copy_(torch.cat([means, self._scale(covariances)], -1))
        self.found.fill_(True)
        return self

    def _scale(self, covariances: Tensor) -> Tensor:
        """The part of h_z that encodes the covariances (K, d, d), or the variances (K, d), of normal clusters."""
        if covariances.ndim == 2:
            return covariances.log()
        factor = torch.linalg.cholesky(covariances)
        scale = factor.diagonal(dim1=-2, dim2=-1)
        below = (factor / scale.unsqueeze(-2))[:, self.family.rows, self.family.columns] * math.sqrt(self.family.dim)
        return torch.cat([scale.log(), below], -1)


# scikit-learn's names of the families' covariances.
COVARIANCES = {DiagonalNormal: "diag", FullRankNormal: "full"}
