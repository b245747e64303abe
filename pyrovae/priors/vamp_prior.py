"""The VampPrior."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks
from pyrovae.priors.prior import Prior


class VampPrior(Prior):
    """p(z) = 1/K sum_k q(z|u_k), with K learned pseudo-inputs u_k.  (Tomczak & Welling 2018)

    This mixture of encodings approximates the aggregate posterior, which is the prior with the highest ELBO.

    Args:
        latent_shape: event shape of z.
        event_shape: shape of one datum x, and of one pseudo-input.
        components: K.
        pseudo: "free" draws the initial pseudo-inputs uniformly from [0, 1]; "data" takes them from the rows of the
            training data, in `initialise`.

    Example:
        >>> import torch, pyro.distributions as dist
        >>> from pyrovae.priors import VampPrior
        >>> prior = VampPrior(latent_shape=2, event_shape=2, components=1)
        >>> p = prior(lambda x: dist.Normal(0 * x, 1.0).to_event(1))  # any encoding x -> q(z|x)
        >>> round(p.log_prob(torch.zeros(2)).item(), 4)  # -log(2 pi)
        -1.8379
    """

    def __init__(
        self,
        latent_shape: Sequence[int] | int,
        event_shape: Sequence[int] | int | None = None,
        components: int = 500,
        pseudo: Literal["free", "data"] = "free",
    ) -> None:
        super().__init__()
        self.latent_shape = checks.shape("latent_shape", latent_shape)
        if event_shape is None:
            raise ValueError("event_shape: expected the shape of a datum, and so of a pseudo-input, found None")
        self.components = self.initial_rows = checks.integer("components", components)
        self.pseudo = checks.member("choice for VampPrior's pseudo", pseudo, ("free", "data"))
        self.inputs = nn.Parameter(torch.rand(self.components, *checks.shape("event_shape", event_shape)))
        self.ready = pseudo == "free"
        self.register_load_state_dict_post_hook(_loaded)

    def extra_repr(self) -> str:
        return f"components={self.components}, pseudo={self.pseudo!r}"

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Self:
        """Set the pseudo-inputs to different rows of the data x, chosen with torch's random generator."""
        checks.event(x, tuple(self.inputs.shape[1:]))
        checks.finite("x", x)
        if len(x) < self.components:
            raise ValueError(f"x: expected at least components = {self.components} rows, found {len(x)}")
        self.inputs.copy_(x[torch.randperm(len(x))[: self.components].to(x.device)])
        self.ready = True
        return self

    def forward(self, encoding: Callable[[Tensor], Any] | None = None) -> dist.TorchDistribution:
        if encoding is None:
            raise ValueError("encoding: expected x -> q(z|x), from which this prior is made, found None")
        if not self.ready:
            raise ValueError('pseudo="data": expected initialise(x) with training data before the first use')
        q = encoding(self.inputs)
        if isinstance(q, dist.Delta) or not all(part.bijective for part in getattr(q, "transforms", [])):
            raise ValueError(
                "VampPrior: expected a guide family with a density at any z, "
                f"found {type(q).__name__} that scores only its own samples"
            )
        return dist.MixtureSameFamily(dist.Categorical(logits=self.inputs.new_zeros(self.components)), q)


def _loaded(prior: VampPrior, incompatible: Any) -> None:
    prior.ready |= not any(key.endswith("inputs") for key in incompatible.missing_keys)
