"""The conditional variational autoencoder that completes data, and a baseline network without latents."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.distributions import Clamped
from pyrovae.guides import DiagonalNormal, GuideFamily
from pyrovae.likelihoods import Bernoulli, Likelihood
from pyrovae.likelihoods.scale import Optimal
from pyrovae.networks import MLP
from pyrovae.networks.connect import Part, build, connect, same_space
from pyrovae.programs.handlers import register
from pyrovae.programs.pair import Program, no_side_effects, placement

Mask = Tensor | Callable[[tuple[int, ...]], Tensor]


def quadrants(event_shape: Sequence[int] | int, seen: int = 1) -> Tensor:
    """The mask of an image (C, H, W) of which 1, 2 or 3 quadrants are seen. (C, H, W), bool

    1: the lower left; 2: the left half; 3: all but the lower right; as in Pyro's example of this model.

    Example:
        >>> from pyrovae.models.completion_vae import quadrants
        >>> quadrants((1, 28, 28), seen=3).float().mean().item()
        0.75
    """
    shape = checks.shape("event_shape", event_shape)
    if len(shape) != 3 or min(shape[1:]) < 2:
        raise ValueError(f"quadrants: expected the shape of an image (C, H, W), H and W >= 2, found {shape}")
    if checks.integer("seen", seen) > 3:
        raise ValueError(f"seen: expected 1, 2 or 3 quadrants of an image, found {seen}")
    _, h, w = shape
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[:, h // 2 :, : w // 2] = True
    mask[:, : h // 2, : w // 2] = seen > 1
    mask[:, : h // 2, w // 2 :] = seen > 2
    return mask


class Completing(nn.Module):
    """Base class of models p(u|s) of the unseen part u of a datum x = (s, u), given its seen part s.

    Attributes:
        event_shape: shape of one datum x.
        likelihood: an `Unseen`.
    """

    event_shape: tuple[int, ...]
    likelihood: Any
    model: Program
    guide: Program

    def seen(self, x: Tensor | None) -> Tensor:
        """s: x with zeros at the unseen entries."""
        if x is None:
            raise ValueError("x: expected data, or as s what is seen of them, found neither")
        return torch.where(self.likelihood.mask, x, 0)

    def complete(self, x: Tensor, n: int = 1) -> Tensor:
        """n draws of x ~ p(x|s) for each row of x, of shape (n, N, *event_shape).

        The seen entries of x are kept; they have to be in the likelihood's support. The unseen entries are ignored;
        they may be NaN.
        """
        checks.integer("n", n)
        checks.event(x, self.event_shape)
        s = self.seen(x.to(*placement(self)))
        if not bool(torch.isfinite(s).all()):
            where = tuple((~torch.isfinite(s)).nonzero()[0].tolist())
            raise ValueError(f"x: expected finite values where it is seen, found {s[where].item()} at {where}")
        self._in_support(s, self.likelihood.mask)
        with no_side_effects(self), pyro.plate("completions", n, dim=-2):
            return self.model(s=s)

    def check(self, x: Tensor) -> None:
        """Raise a ValueError unless x has the event shape, is finite, and lies in the likelihood's support."""
        checks.event(x, self.event_shape)
        checks.finite("x", x)
        self._in_support(x)

    def _in_support(self, x: Tensor, only: Tensor | None = None) -> None:
        whole = self.likelihood.of(x.new_zeros(1, *self.likelihood.param_shape))
        checks.support(x, whole.support, self.likelihood.advice, only=only)


class Completion(Completing):
    """p(u|s) = prod_i p(u_i|s): the unseen entries of a datum x = (s, u), independent given the seen ones.

    The baseline without latents for a `CompletionVAE`; its guide is empty. Training data are complete. The scores are
    those of u alone; `poutine.uncondition(model)(x)`, or `model(s=x)`, draws u.

    Args:
        event_shape: shape of one datum x: (C, H, W), or (D,).
        mask: True where x is seen: booleans of the event shape, or a function from the event shape to them
            (`quadrants`, or a functools.partial of it).
        likelihood: p(u|h), with independent entries; built from the event shape.
        network: network from s (x with zeros at the unseen entries) to the likelihood's parameters.

    Raises:
        ValueError: the mask has another shape or dtype, or leaves nothing seen or nothing unseen; the likelihood's
            entries are not independent; the shapes of two parts do not fit.

    Example:
        >>> import torch
        >>> from pyrovae.models import Completion
        >>> baseline = Completion(event_shape=4, mask=torch.tensor([True, True, False, False]))
        >>> baseline.complete(torch.tensor([[1.0, 0.0, torch.nan, torch.nan]]), n=3)[..., :2].mean((0, 1))
        tensor([1., 0.])
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        mask: Mask = quadrants,
        likelihood: Part = Bernoulli,
        network: Part = MLP,
    ) -> None:
        super().__init__()
        self.likelihood = Unseen(event_shape, mask, likelihood)
        self.event_shape = self.likelihood.event_shape
        self.network = connect(network, [self.event_shape], self.likelihood.param_shape, "network")

    def p_x(self, s: Tensor) -> dist.TorchDistribution:
        """p(x|s): p(u|s) for the unseen entries, s itself for the seen ones; s has shape (..., *event_shape)."""
        return self.likelihood(self.network(s), s)

    def model(self, x: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """u_i ~ p(u|s_i): for the rows of x, with the unseen part observed; or for the rows of s, where it is drawn."""
        register(self)
        s = self.seen(x if s is None else s)
        with pyro.plate("data", len(s)):
            return pyro.sample("x", self.p_x(s), obs=x)

    def guide(self, x: Tensor) -> Tensor | None:
        """Do nothing: there are no latents."""
        return None


class CompletionVAE(Completing):
    """p(u, z|s) = p(z|s) p(u|z, s), with guide q(z|x), for the unseen part u of x = (s, u).  (Sohn, Lee & Yan 2015)

    Args:
        event_shape, mask, likelihood: as in `Completion`.
        latent_dim: number of latents.
        guide: the family q(z|h), from the latent shape.
        encoder: network from x to the guide's parameters.
        decoder: network from z and s to the likelihood's parameters.
        conditional_prior: the family of p(z|s), a guide family; built from the latent shape.
        prior_network: network from s to the parameters of p(z|s).

    Raises:
        ValueError: as in `Completion`.

    Example:
        >>> import torch
        >>> from pyrovae.models import CompletionVAE
        >>> vae = CompletionVAE(event_shape=4, latent_dim=2, mask=torch.tensor([True, True, False, False]))
        >>> completions = vae.complete(torch.tensor([[1.0, 0.0, torch.nan, torch.nan]]), n=3)
        >>> completions.shape, completions[..., :2].mean((0, 1))
        (torch.Size([3, 1, 4]), tensor([1., 0.]))
    """

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        latent_dim: int,
        mask: Mask = quadrants,
        likelihood: Part = Bernoulli,
        guide: Part = DiagonalNormal,
        encoder: Part = MLP,
        decoder: Part = MLP,
        conditional_prior: Part = DiagonalNormal,
        prior_network: Part = MLP,
    ) -> None:
        super().__init__()
        self.likelihood = Unseen(event_shape, mask, likelihood)
        self.event_shape = self.likelihood.event_shape
        self.latent_shape = (checks.integer("latent_dim", latent_dim),)
        self.family = build("guide", guide, self.latent_shape, kind=GuideFamily)
        self.conditional_prior = build("conditional_prior", conditional_prior, self.latent_shape, kind=GuideFamily)
        same_space(self.conditional_prior, self.family)
        self.encoder = connect(encoder, [self.event_shape], self.family.param_shape, "encoder")
        inputs = [self.latent_shape, self.event_shape]
        self.decoder = connect(decoder, inputs, self.likelihood.param_shape, "decoder")
        shape = self.conditional_prior.param_shape
        self.prior_network = connect(prior_network, [self.event_shape], shape, "prior_network")

    def p_z(self, s: Tensor) -> dist.TorchDistribution:
        """The prior p(z|s), for s (..., *event_shape)."""
        return self.conditional_prior(self.prior_network(s))

    def p_x(self, z: Tensor, s: Tensor) -> dist.TorchDistribution:
        """p(x|z, s): p(u|z, s) for the unseen entries, s itself for the seen ones; z has shape (..., *latent_shape)."""
        return self.likelihood(self.decoder(z, s), s)

    def q_z(self, x: Tensor) -> dist.TorchDistribution:
        """The guide q(z|x), for x (..., *event_shape)."""
        return self.family(self.encoder(x))

    def model(self, x: Tensor | None = None, s: Tensor | None = None) -> Tensor:
        """z_i ~ p(z|s_i), u_i ~ p(u|z_i, s_i): for the rows of x, with u observed; or for the rows of s."""
        register(self)
        s = self.seen(x if s is None else s)
        with pyro.plate("data", len(s)):
            z = pyro.sample("z", self.p_z(s))
            return pyro.sample("x", self.p_x(z, s), obs=x)

    def guide(self, x: Tensor) -> Tensor:
        """z_i ~ q(z|x_i) for the rows of x."""
        register(self)
        with pyro.plate("data", len(x)):
            return pyro.sample("z", self.q_z(x))


class Unseen(Likelihood):
    """p(x|h, s) = prod_{i seen} [x_i = s_i] prod_{i unseen} p(x_i|h): the likelihood of the unseen entries.

    Args:
        event_shape, mask: as in `Completion`.
        of: the likelihood of complete data.
    """

    mask: Tensor

    def __init__(self, event_shape: Sequence[int] | int, mask: Mask, of: Part) -> None:
        super().__init__()
        self.event_shape = checks.shape("event_shape", event_shape)
        self.register_buffer("mask", _checked(mask, self.event_shape).clone())
        self.of = build("likelihood", of, self.event_shape, kind=Likelihood)
        self.param_shape, self.advice = self.of.param_shape, self.of.advice
        entries = getattr(self.of(torch.zeros(1, *self.param_shape)), "base_dist", None)
        together = any(isinstance(part, Optimal) for part in self.of.modules())
        if together or getattr(entries, "batch_shape", ()) != (1, *self.event_shape):
            raise ValueError(f"likelihood: expected one of independent entries, each with its score, found {self.of}")
        seen = int(self.mask.sum())
        self.measure = self.of.measure.noted(f"of {self.mask.numel() - seen} unseen entries given {seen}")

    # This likelihood has one argument more than the contract: s.
    def forward(self, h: Tensor, s: Tensor) -> dist.TorchDistribution:  # type: ignore[override]
        return Clamped(self.of(h).base_dist, self.mask, s).to_event(len(self.event_shape))


def _checked(mask: Any, event_shape: tuple[int, ...]) -> Tensor:
    """The mask, after a check that it has this shape and leaves some entries seen and some unseen."""
    mask = mask(event_shape) if callable(mask) else mask
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != event_shape:
        found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
        raise ValueError(f"mask: expected torch.bool {event_shape}, True where x is seen, found {found}")
    if not 0 < (seen := int(mask.sum())) < mask.numel():
        raise ValueError(f"mask: expected some entries seen and some not, found {seen} of {mask.numel()} seen")
    return mask
