"""The variational autoencoder with several layers of latents."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.guides import DiagonalNormal, GuideFamily
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.models.decoded import Decoded
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, build, buildable, connect, same_space, takes_missing
from pyrovae.priors import Prior, StandardNormal
from pyrovae.programs.handlers import register, rows


class HierarchicalVAE(Decoded):
    """p(x, z1, ..., zL) = p(zL) prod_l p(zl|zl+1) p(x|z1), with a bottom-up or a top-down guide.

    The bottom-up guide is q(z1|x) prod_l q(zl+1|zl) (Burda, Grosse & Salakhutdinov 2016). It draws the latents in the
    reverse of the model's order, so its KL has to be sampled. The top-down guide is q(zL|x) prod_l q(zl|zl+1, x), which
    uses p(zl|zl+1) (Sonderby et al. 2016); it also works with estimator="analytic". Without a warm-up of beta the
    upper layers often stay inactive.

    Args:
        event_shape, likelihood, encoder, decoder: as in `VAE`, for x, p(x|z1), and the networks from x and from z1.
        latent_dim: number of latents in z1.
        above: numbers of latents in z2, ..., zL.
        prior: p(zL). A VampPrior is a mixture of q(zL|x), which only the top-down guide has.
        guide: the family of each q; the top-down guide needs the diagonal normal.
        conditional_prior: the family of each p(zl|zl+1), a guide family; the top-down guide needs the diagonal normal.
        between: builds each network between two layers, both upwards and downwards.
        direction: direction of the guide, "bottom-up" or "top-down".

    Raises:
        ValueError: the shapes of two parts do not fit; there is no layer above z1; a top-down guide has another family;
            a part that every layer builds for itself is given as one module.

    Example:
        >>> import torch
        >>> from pyrovae.models import HierarchicalVAE
        >>> vae = HierarchicalVAE(event_shape=6, latent_dim=4, above=2, direction="top-down")
        >>> vae.p_z(1, above=torch.zeros(3, 2)).batch_shape, vae.sample(3).shape
        (torch.Size([3]), torch.Size([3, 6]))
        >>> round(vae.p_top().log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        above: Sequence[int] | int = (16,),
        prior: Part = StandardNormal,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        conditional_prior: Part = DiagonalNormal,
        between: Part = MLP,
        direction: str = "bottom-up",
    ) -> None:
        super().__init__()
        _each_its_own(guide=guide, conditional_prior=conditional_prior, between=between)
        self.event_shape = checks.shape("event_shape", event_shape)
        sizes = checks.integer("latent_dim", latent_dim), *checks.shape("above", above)
        self.latent_shapes = [(d,) for d in sizes]
        self.prior = build("prior", prior, self.latent_shapes[-1], self.event_shape, kind=Prior)
        self.likelihood = build("likelihood", likelihood, self.event_shape, kind=Likelihood)
        self.decoder = connect(decoder, [self.latent_shapes[0]], self.likelihood.param_shape, "decoder")
        self.conditionals: Any = nn.ModuleList(
            Factor(conditional_prior, shape, between, given, "between") for shape, given in pairwise(self.latent_shapes)
        )
        kind = DIRECTIONS[checks.member("direction", direction, DIRECTIONS)]
        self.recognition: Any = kind(self.event_shape, self.latent_shapes, guide, encoder, between)
        families: list[Any] = [p.family for p in self.conditionals]
        for p, q in zip([*families, self.prior], self.recognition.factors, strict=True):
            same_space(p, q.family)
        self.recognition.takes(families)
        if self.likelihood.missing:
            takes_missing(self.recognition.factors[0].network, [self.event_shape])

    def p_top(self) -> dist.TorchDistribution:
        """The prior p(zL)."""
        return self.prior(self.recognition.q_top)

    def p_z(self, layer: int, above: Tensor) -> dist.TorchDistribution:
        """p(zl|zl+1), for l = 1, ..., L - 1 and zl+1 (..., *latent_shapes[l])."""
        return self.conditionals[layer - 1](above)

    def p_x(self, z: Tensor) -> dist.TorchDistribution:
        """The likelihood p(x|z1), for z1 (..., *latent_shapes[0])."""
        return self.likelihood(self.decoder(z))

    def q_z(self, x: Tensor) -> dist.TorchDistribution:
        """The guide's factor that depends on x alone: q(z1|x) bottom-up, q(zL|x) top-down."""
        return self.recognition.q_first(x)

    def model(self, x: Tensor | None = None, n: int = 1) -> Tensor:
        """zL ~ p(zL), zl ~ p(zl|zl+1), x ~ p(x|z1) for the rows of x, or for n new rows if x is None."""
        register(self)
        top = len(self.latent_shapes)
        event_dims = {f"z{layer}": 1 for layer in range(top, 0, -1)} | {"x": len(self.event_shape)}
        with pyro.plate("data", rows(n, **event_dims) if x is None else len(x)):
            z = pyro.sample(f"z{top}", self.p_top())
            for layer in range(top - 1, 0, -1):
                z = pyro.sample(f"z{layer}", self.p_z(layer, z))
            return pyro.sample("x", self.p_x(z), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """z1, ..., zL ~ q(z1, ..., zL|x) for the rows of x, drawn in the direction of the guide."""
        register(self)
        with pyro.plate("data", len(x)):
            return self.recognition(x, self.p_z)


def _each_its_own(**parts: Part) -> None:
    """Raise a ValueError if a part that every layer builds for itself is given as one module."""
    for role, part in parts.items():
        buildable(role, part)
        if isinstance(part, nn.Module):
            raise ValueError(f"{role}: expected a class or a partial that builds one for each layer, found {part!r}")


class Factor(nn.Module):
    """p(z|y) = family(z; network(y))."""

    def __init__(
        self, family: Part, latent_shape: tuple[int, ...], network: Part, given: tuple[int, ...], role: str
    ) -> None:
        super().__init__()
        self.family = build("family", family, latent_shape, kind=GuideFamily)
        self.network = connect(network, [given], self.family.param_shape, role)

    def forward(self, y: Tensor) -> dist.TorchDistribution:
        return self.family(self.network(y))


class Recognition(nn.Module):
    """q(z1, ..., zL|x) = prod_l q(zl|...): one factor for each layer, whose output is the next network's input."""

    hands_up: str  # the next network's input: "latent_shape" for zl, "param_shape" for the parameters of its family

    def __init__(
        self,
        event_shape: tuple[int, ...],
        latent_shapes: Sequence[tuple[int, ...]],
        guide: Part,
        encoder: Part,
        between: Part,
    ) -> None:
        super().__init__()
        self.factors: Any = nn.ModuleList([Factor(guide, latent_shapes[0], encoder, event_shape, "encoder")])
        for shape in latent_shapes[1:]:
            given = getattr(self.factors[-1].family, self.hands_up)
            self.factors.append(Factor(guide, shape, between, given, "between"))

    def takes(self, families: Sequence[nn.Module]) -> None:
        """Raise a ValueError unless the guide works with these families of p(zl|zl+1)."""


class BottomUp(Recognition):
    """q(z1, ..., zL|x) = q(z1|x) prod_l q(zl+1|zl)."""

    hands_up = "latent_shape"

    def q_first(self, x: Tensor) -> dist.TorchDistribution:
        """q(z1|x)."""
        return self.factors[0](x)

    def q_top(self, x: Tensor) -> dist.TorchDistribution:
        """q(zL|x): an integral over the layers below, without closed form."""
        raise ValueError(
            "prior: expected one that needs no q(zL|x), found one that does; only the top-down guide has it in closed "
            "form"
        )

    def forward(self, x: Tensor, p_z: object) -> Tensor:
        """z1, ..., zL ~ q(z1, ..., zL|x), as sites."""
        z = x
        for layer, q_z in enumerate(self.factors, 1):
            z = pyro.sample(f"z{layer}", q_z(z))
        return z


class TopDown(Recognition):
    """q(z1, ..., zL|x) = q(zL|x) prod_l p(zl|zl+1) Normal(zl; h_l(x)) / constant.

    The h_l are deterministic functions of x (the upward pass of the ladder VAE); q(zL|x) = Normal(zL; h_L(x)).
    """

    hands_up = "param_shape"

    def takes(self, families: Sequence[nn.Module]) -> None:
        """Raise a ValueError unless the product of p(zl|zl+1) and Normal(zl; h_l) has a closed form."""
        for family in (*families, *(q.family for q in self.factors)):
            if not isinstance(family, DiagonalNormal):
                name = type(family).__name__
                raise ValueError(f"top-down: expected DiagonalNormal, whose products are normal again, found {name}")

    def upwards(self, x: Tensor) -> list[dist.TorchDistribution]:
        """Normal(zl; h_l(x)) for l = 1, ..., L."""
        normals, h = [], x
        for factor in self.factors:
            h = factor.network(h)
            normals.append(factor.family(h))
        return normals

    def q_top(self, x: Tensor) -> dist.TorchDistribution:
        """q(zL|x)."""
        return self.upwards(x)[-1]

    q_first = q_top

    def forward(self, x: Tensor, p_z: Callable[[int, Tensor], dist.TorchDistribution]) -> Tensor:
        """zL, ..., z1 ~ q(z1, ..., zL|x), as sites."""
        *below, top = self.upwards(x)
        z = pyro.sample(f"z{len(self.factors)}", top)
        for layer in range(len(below), 0, -1):
            z = pyro.sample(f"z{layer}", product(below[layer - 1], p_z(layer, z)))
        return z


def product(a: Any, b: Any) -> dist.TorchDistribution:
    """The diagonal normal proportional to a(z) b(z): precisions add, and means are weighted by their precisions."""
    (m, s), (n, t) = ((normal.base_dist.loc, normal.base_dist.scale) for normal in (a, b))
    share = t / torch.hypot(s, t)  # its square is a's share of the precision; squaring a scale first could overflow
    return dist.Normal(torch.lerp(n, m, share.square()), s * share).to_event(a.event_dim)


DIRECTIONS = {"bottom-up": BottomUp, "top-down": TopDown}
