"""Scales of likelihoods: fixed, learned, or returned by the decoder."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pyrovae import checks


class Fixed(nn.Module):
    """s is fixed."""

    value: Tensor

    def __init__(self, event_shape: tuple[int, ...], scale: float, min_scale: float) -> None:
        super().__init__()
        self.param_shape = event_shape
        self.register_buffer("value", torch.tensor(scale, dtype=torch.float64), persistent=False)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(m, s)"""
        return h, self.value.to(h.dtype)

    def extra_repr(self) -> str:
        return f"scale={self.value.item():g}"


class One(nn.Module):
    """s = min_scale + e^v, one learned number v for all values."""

    learn = "one"

    def __init__(self, event_shape: tuple[int, ...], scale: float, min_scale: float) -> None:
        super().__init__()
        self.param_shape, self.start, self.min_scale = event_shape, scale, min_scale
        self.log_excess = nn.Parameter(torch.full(self.shape(event_shape), math.log(scale - min_scale)))

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return ()

    @property
    def value(self) -> Tensor:
        return self.min_scale + self.log_excess.exp()

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(m, s)"""
        return h, self.value.to(h.dtype)

    def extra_repr(self) -> str:
        return f"learn={self.learn!r}, scale={self.start:g}, min_scale={self.min_scale:g}"


class PerValue(One):
    """s_i = min_scale + e^v_i, one learned number for each value of the event."""

    learn = "per-value"

    def shape(self, event_shape: tuple[int, ...]) -> tuple[int, ...]:
        return event_shape


class PerInput(nn.Module):
    """s_i = min_scale + (scale - min_scale) e^v_i, with h = (m, v) from the decoder: s is `scale` at v = 0."""

    learn = "per-input"
    value = None

    def __init__(self, event_shape: tuple[int, ...], scale: float, min_scale: float) -> None:
        super().__init__()
        self.param_shape = (2, *event_shape)
        self.start, self.min_scale = scale, min_scale

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(m, s)"""
        location, v = h.unbind(-len(self.param_shape))
        return location, self.min_scale + (self.start - self.min_scale) * v.clamp(max=60).exp()

    def extra_repr(self) -> str:
        return f"learn={self.learn!r}, scale={self.start:g}, min_scale={self.min_scale:g}"


class Optimal(nn.Module):
    """s^2 = mean of (x - m)^2 over a batch, which maximises its likelihood.  (Rybkin, Daniilidis & Levine 2021)

    It is meant for the ELBO, whose derivative with respect to s is then 0. For weighted draws (IWAE, Renyi) another s
    is optimal.

    In evaluation mode s^2 is a running mean: over all batches at first, over the last hundred or so later.
    """

    learn = "optimal"
    mean_square: Tensor
    batches: Tensor

    def __init__(self, event_shape: tuple[int, ...], scale: float, min_scale: float) -> None:
        super().__init__()
        self.param_shape, self.min_scale = event_shape, min_scale
        self.register_buffer("mean_square", torch.tensor(scale**2))
        self.register_buffer("batches", torch.tensor(0.0))

    @property
    def value(self) -> Tensor:
        return self.mean_square.sqrt()

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """(m, s), with s from the previous batches."""
        return h, self.value.to(h.dtype)

    @torch.no_grad()
    def estimate(self, mean_square: Tensor) -> Tensor:
        """s of a batch, from its mean squared residual. A finite one also updates the running mean."""
        mean_square = mean_square.clamp(min=self.min_scale**2)
        finite = mean_square.isfinite()
        self.batches.add_(finite)
        weight = torch.where(finite, (1 / self.batches).clamp(min=0.01), 0)
        self.mean_square.lerp_(mean_square.nan_to_num().to(self.mean_square.dtype), weight)
        return mean_square.sqrt()

    def extra_repr(self) -> str:
        return f"learn={self.learn!r}, min_scale={self.min_scale:g}"


Scale = Fixed | One | PerInput | Optimal
SCALES: Mapping[str, type[Scale]] = {"None": Fixed, "one": One, "per-value": PerValue, "per-input": PerInput}


def scaling(
    event_shape: tuple[int, ...],
    scale: float,
    learn: str | None,
    min_scale: float,
    known: Mapping[str, type[Scale]] = SCALES,
) -> Scale:
    """The scale module for this choice of `learn`, from the decoder's output h (..., *param_shape) to (m, s).

    Its `value` is s as a tensor of shape () or the event shape; None if s depends on the input.
    """
    kind = known[checks.member("choice for learn", str(learn), known)]
    checks.positive("min_scale", min_scale)
    if checks.positive("scale", scale) <= (min_scale if learn else 0):
        raise ValueError(f"scale: expected a number above min_scale = {min_scale}, found {scale}")
    return kind(event_shape, scale, min_scale)
