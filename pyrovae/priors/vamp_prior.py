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

    The mixture of encodings that comes nearest to the aggregate posterior, which is the best prior of all.

    Args:
        latent_shape: event shape of z.
        event_shape: shape of one datum x, and of one pseudo-input.
        components: K.
        pseudo: "free" starts the pseudo-inputs uniform on [0, 1]; "data" waits for `initialise`, which makes them rows
            of the training data.
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
            raise ValueError("event_shape: expected the shape of a datum, of which pseudo-inputs are made, found None")
        self.components = self.initial_rows = checks.integer("components", components)
        self.pseudo = checks.member("choice for VampPrior's pseudo", pseudo, ("free", "data"))
        self.inputs = nn.Parameter(torch.rand(self.components, *checks.shape("event_shape", event_shape)))
        self.ready = pseudo == "free"
        self.register_load_state_dict_post_hook(_loaded)

    def extra_repr(self) -> str:
        return f"components={self.components}, pseudo={self.pseudo!r}"

    @torch.no_grad()
    def initialise(self, x: Tensor) -> Self:
        """Set the pseudo-inputs to different rows of the data x, chosen by torch's generator."""
        checks.event(x, tuple(self.inputs.shape[1:]))
        checks.finite("x", x)
        if len(x) < self.components:
            raise ValueError(f"x: expected at least components = {self.components} rows, found {len(x)}")
        self.inputs.copy_(x[torch.randperm(len(x))[: self.components].to(x.device)])
        self.ready = True
        return self

    def forward(self, encoding: Callable[[Tensor], Any] | None = None) -> dist.TorchDistribution:
        if encoding is None:
            raise ValueError("encoding: expected x -> q(z|x), of which this prior is made, found None")
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
