"""The normal likelihood."""

import math
from collections.abc import Sequence
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyrovae import checks


class Normal(nn.Module):
    """p(x|h) = Normal(x; h, diag(s^2)), for real x.

    -log p(x|h) = sum_i (x_i - h_i)^2 / (2 s_i^2) + log s_i + log(2 pi) / 2: squared error, and its worth in nats.

    Args:
        event_shape: event shape of x.
        scale: s, in the units of x; the start, where it is learned.
        learn: None keeps s fixed; "one" learns one s for all values; "per-value" learns one for each pixel or column.
        min_scale: what a learned s stays above. Without it a constant pixel has no best s: its density grows for ever.
    """

    fixed: Tensor
    measure = "density over real values"
    advice = ""

    def __init__(
        self,
        event_shape: Sequence[int] | int,
        scale: float = 1.0,
        learn: Literal["one", "per-value"] | None = None,
        min_scale: float = 1e-3,
    ) -> None:
        super().__init__()
        self.event_shape = self.param_shape = checks.shape("event_shape", event_shape)
        shapes = {"None": (), "one": (), "per-value": self.event_shape}
        shape = shapes[checks.member("choice for Normal's learn", str(learn), shapes)]
        self.learn, self.min_scale = learn, checks.positive("min_scale", min_scale) if learn else 0.0
        if checks.positive("scale", scale) <= self.min_scale:
            raise ValueError(f"scale: expected a number above min_scale = {self.min_scale}, found {scale}")
        if learn:
            self.log_excess = nn.Parameter(torch.full(shape, math.log(scale - self.min_scale)))
        else:
            self.register_buffer("fixed", torch.tensor(scale, dtype=torch.float64), persistent=False)

    @property
    def scale(self) -> Tensor:
        """The scale s, of shape () or the event shape."""
        return self.min_scale + self.log_excess.exp() if self.learn else self.fixed

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        return dist.Normal(h, self.scale.to(h.dtype)).to_event(len(self.event_shape))
